"""The cases of the sweep: every cluster size with every transition and every variant. Test side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.qemu import Qemu
from tests.support.verdicts import Request

CLUSTER_BITS = range(9, 22)


@dataclass(frozen=True)
class Transition:
    """What is asked of an image, and what it must be before."""

    name: str
    request: Request
    compat: str
    lazy: str = "off"
    action: str = "amended"


TRANSITIONS = (
    Transition("upgrade", Request(compat="1.1"), "0.10"),
    Transition("downgrade", Request(compat="0.10"), "1.1"),
    Transition("upgrade-lazy", Request(compat="1.1", lazy_refcounts=True), "0.10"),
    Transition("downgrade-lazy", Request(compat="v2"), "1.1", lazy="on"),
    Transition("lazy-on", Request(lazy_refcounts=True), "1.1"),
    Transition("lazy-off", Request(lazy_refcounts=False), "1.1", lazy="on"),
    Transition("noop-v2", Request(compat="0.10", lazy_refcounts=False), "0.10", action="noop"),
    Transition("noop-v3", Request(compat="v3"), "1.1", action="noop"),
    Transition("noop-lazy", Request(lazy_refcounts=True), "1.1", lazy="on", action="noop"),
)

CREATE = "create -o compat={compat},lazy_refcounts={lazy},cluster_size={cluster}"
DATA = "io -c 'write -P 1 0 {three}' -c 'write -P 2 {far} {cluster}' t.qcow2"


@dataclass(frozen=True)
class Variant:
    """What an image holds. `recipe` may name what Case.recipe fills in."""

    name: str
    recipe: str
    from_bits: int = 9
    """The smallest cluster size that has room for it."""
    layout: bool = False
    """Whether it is about where things are in the header cluster."""
    version_3_only: bool = False
    needs_zstd: bool = False


VARIANTS = (
    Variant("empty", CREATE + " t.qcow2 {size}"),
    Variant("data", CREATE + " t.qcow2 {size}; " + DATA),
    Variant(
        "backing",
        "create b.qcow2 {size}; io -c 'write -P 5 0 {three}' b.qcow2;"
        + CREATE
        + " -b b.qcow2 -F qcow2 t.qcow2; io -c 'write -P 1 {cluster} {cluster}' t.qcow2",
        layout=True,
    ),
    Variant(
        "backing-without-format",
        "create b.qcow2 {size}; io -c 'write -P 5 0 {three}' b.qcow2;"
        + CREATE
        + " t.qcow2 {size}; poke backing b.qcow2",
        layout=True,
    ),
    Variant(
        "long-name",
        "deep-backing {size};" + CREATE + " -b @deep -F qcow2 t.qcow2; " + DATA,
        from_bits=11,
        layout=True,
    ),
    Variant(
        "name-at-the-end",
        "create b.qcow2 {size};" + CREATE + " t.qcow2 {size}; poke backing-at-end b.qcow2",
        layout=True,
    ),
    Variant(
        "small-extensions",
        CREATE + " t.qcow2 {size}; poke ext 11111111 one; poke extfill 22222222 40;"
        "poke ext 11111111 again; poke ext 33333333 ''",
        layout=True,
    ),
    Variant(
        "extensions-across-sectors",
        "create b.qcow2 {size};" + CREATE + " -b b.qcow2 -F qcow2 t.qcow2;"
        "poke extfill 11111111 150; poke extfill 22222222 150; poke extfill 33333333 150;"
        "poke extfill 44444444 61",
        from_bits=11,
        layout=True,
    ),
    Variant(
        "large-extension",
        CREATE + " t.qcow2 {size}; poke ext 11111111 one; poke extfill 22222222 {large}",
        layout=True,
    ),
    Variant(
        "full-header",
        CREATE + " t.qcow2 {size}; poke extfill 11111111 {full}",
        from_bits=11,
        layout=True,
    ),
    Variant(
        "snapshot",
        CREATE + " t.qcow2 {size}; " + DATA + "; snapshot -c first t.qcow2;"
        "io -c 'write -P 3 0 {cluster}' t.qcow2; snapshot -c second t.qcow2",
    ),
    Variant(
        "compressed",
        CREATE + " t.qcow2 {size}; io -c 'write -c -P 4 0 {cluster}'"
        " -c 'write -c -P 5 {far} {cluster}' t.qcow2",
    ),
    Variant(
        "extended-l2",
        CREATE + ",extended_l2=on t.qcow2 {size}; io -c 'write -P 1 0 {subcluster}' t.qcow2",
        from_bits=14,
        version_3_only=True,
    ),
    Variant(
        "zstd",
        CREATE + ",compression_type=zstd t.qcow2 {size};io -c 'write -c -P 4 0 {cluster}' t.qcow2",
        version_3_only=True,
        needs_zstd=True,
    ),
    Variant("data-file", CREATE + ",data_file=d.raw t.qcow2 {size}; " + DATA, version_3_only=True),
    Variant(
        "bitmaps",
        CREATE
        + " t.qcow2 {size}; bitmap --add t.qcow2 b0; bitmap --add --disable t.qcow2 b1;"
        + DATA,
        version_3_only=True,
    ),
)


TORN = {(11, "long-name"), *((bits, "full-header") for bits in range(11, 22))}
"""Where an upgrade finds no room for both layouts, and so is more than one sector."""


@dataclass(frozen=True)
class Case:
    """One image and what is asked of it; every version sees it, or only some."""

    bits: int
    transition: Transition
    variant: Variant
    number: int
    all_versions: bool

    def __str__(self) -> str:
        return f"{1 << self.bits}-{self.transition.name}-{self.variant.name}"

    @property
    def recipe(self) -> str:
        """How the image is made."""
        cluster = 1 << self.bits
        size = max(1 << 20, 16 * cluster)
        recipe = self.variant.recipe.format(
            compat=self.transition.compat,
            lazy=self.transition.lazy,
            cluster=cluster,
            three=3 * cluster,
            subcluster=cluster // 32,
            far=size - cluster,
            size=size,
            large=min(cluster * 3 // 8, 30000),
            full=min(cluster, 1 << 16) - 600,
        )
        return recipe.replace(";", "\n")

    def versions(self, versions: tuple[Qemu, ...]) -> tuple[Qemu, ...]:
        """The versions that see the case: all that can, or one when it is its turn."""
        able = tuple(v for v in versions if not self.variant.needs_zstd or v.number >= (6,))
        return able if self.all_versions else (able[self.number % len(able)],)


def fits(transition: Transition, variant: Variant) -> bool:
    """Whether such an image can be asked for that."""
    stays = transition.compat == "1.1" and "downgrade" not in transition.name
    return stays or not variant.version_3_only


def cases() -> Iterator[Case]:
    """Layouts meet both changes of version at every size; all else takes turns."""
    number = 0
    for bits in CLUSTER_BITS:
        seen: set[str] = set()
        for place, variant in enumerate(v for v in VARIANTS if bits >= v.from_bits):
            able = [t for t in TRANSITIONS if fits(t, variant)]
            turn = able[(bits + place) % len(able)]
            for transition in dict.fromkeys((*(TRANSITIONS[:2] if variant.layout else ()), turn)):
                # The first image with a transition is shown to every version.
                first = transition.name not in seen and not variant.needs_zstd
                yield Case(bits, transition, variant, number, first)
                if first:
                    seen.add(transition.name)
                number += 1
