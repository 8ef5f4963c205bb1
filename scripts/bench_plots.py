"""Test side: `make bench`, pictures: cost against size, throughput against jobs."""

from __future__ import annotations

from pathlib import Path


def plot_sizes(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Write the curves of compare_sizes() as an SVG file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "instar"  # the same figures make the same file
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(10, 3.2), sharey=True)
    for axis, (kind, values) in zip(axes, found.items(), strict=True):
        for place, name in enumerate(("instar.amend", "Sandbox.amend", "qemu-img amend")):
            axis.plot(
                list(values), [three[place] * 1e3 for three in values.values()], "o-", label=name
            )
        axis.set_xlabel(kind)
        axis.set_yscale("log")
        axis.tick_params(axis="x", rotation=60, labelsize=7)
    axes[0].set_ylabel("ms")
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def plot_throughput(best: dict[str, float], path: Path) -> None:
    """Write the results of compare_batches() as an SVG file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "instar"
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 2.6))
    names = list(reversed(best))
    axis.barh(names, [1 / best[name] for name in names])
    axis.set_xlabel("images per second")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def plot_factors(factors: dict[str, float], path: Path) -> None:
    """Write how many times as fast as qemu-img instar is at each thing as an SVG file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "instar"
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 2.8))
    names = list(reversed(factors))
    bars = axis.barh(names, [factors[name] for name in names])
    axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=7)
    axis.set_xscale("log")
    axis.axvline(1, color="black", linewidth=0.8)
    axis.margins(x=0.1)
    axis.set_xlabel("times as fast as qemu-img")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
