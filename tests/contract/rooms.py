"""Test side: the one table of rooms: which files may know of which, in Python and in C.

test_rooms.py holds the host, the tests and the scripts to it, test_layers.py the C sources. A room
is a folder, or in Python a file that stands apart from its folder. Files are found, not listed:
one that lies in no room of the table fails, as does a room that has gone.
"""

from __future__ import annotations

_TESTED_WITH = ("tests/support", "scripts/hatch_*.py", "scripts/build_*.py")
_READERS = ("shared/qcow2", "shared/image", "shared", "abi")
_LOOKS = ("guest/operation", "shared/inspect", "shared/image", "shared", "abi")

# Room: the rooms that its files may use, besides their own. Each stands above all that it may use,
# so that no arrow leads back up. What lies in no folder of vmm/ is a room by itself.
ROOMS: dict[str, tuple[str, ...]] = {
    # The host.
    "vmm/__main__.py": ("vmm/cli",),
    "vmm/public.py": (
        *("vmm/api.py", "vmm/looks.py", "vmm/fleet", "vmm/amend"),
        *("vmm/inspect", "vmm/contract/terms.py", "vmm/request", "vmm/base"),
    ),
    "vmm/cli": (
        *(
            "vmm/api.py",
            "vmm/repair.py",
            "vmm/fleet",
            "vmm/amend",
            "vmm/inspect",
            "vmm/contract/terms.py",
            "vmm/machine",
        ),
        *("vmm/confine", "vmm/image", "vmm/request", "vmm/kvm", "vmm/base", "abi"),
    ),
    "vmm/looks.py": (
        *("vmm/repair.py", "vmm/fleet", "vmm/inspect", "vmm/machine", "vmm/request", "vmm/base"),
    ),
    "vmm/repair.py": (
        *(
            "vmm/fleet",
            "vmm/amend",
            "vmm/inspect",
            "vmm/machine",
            "vmm/image",
            "vmm/request",
            "vmm/base",
        ),
        "abi",
    ),
    "vmm/api.py": ("vmm/fleet", "vmm/amend", "vmm/machine", "vmm/request", "vmm/base"),
    "vmm/fleet": (
        *("vmm/amend", "vmm/inspect", "vmm/contract/terms.py", "vmm/machine", "vmm/confine"),
        *("vmm/image", "vmm/qcow2", "vmm/request", "vmm/base", "abi"),
    ),
    "vmm/amend": (
        *(
            "vmm/__init__.py",
            "vmm/contract/judge.py",
            "vmm/contract",
            "vmm/contract/terms.py",
            "vmm/luks",
            "vmm/machine",
            "vmm/image",
            "vmm/qcow2",
            "vmm/request",
            "vmm/base",
        ),
        "abi",
    ),
    "vmm/luks": ("vmm/image", "vmm/request", "vmm/base", "abi"),
    "vmm/inspect": (*("vmm/machine", "vmm/image", "vmm/qcow2", "vmm/request", "vmm/base", "abi"),),
    "vmm/contract/judge.py": (
        *("vmm/contract/repair", "vmm/contract", "vmm/contract/terms.py"),
        *("vmm/image", "vmm/qcow2", "vmm/request", "vmm/base"),
    ),
    "vmm/contract/repair": (
        *("vmm/contract", "vmm/contract/reader", "vmm/contract/terms.py"),
        *("vmm/image", "vmm/qcow2", "vmm/request", "vmm/base", "abi"),
    ),
    "vmm/contract": (
        *("vmm/contract/reader", "vmm/contract/terms.py", "vmm/image", "vmm/qcow2"),
        *("vmm/request", "vmm/base", "abi"),
    ),
    "vmm/contract/reader": (
        *("vmm/contract/terms.py", "vmm/image", "vmm/qcow2", "vmm/base", "abi"),
    ),
    "vmm/contract/terms.py": ("vmm/image", "vmm/qcow2", "vmm/base"),
    "vmm/machine": ("vmm/devices", "vmm/image", "vmm/kvm", "vmm/base", "abi"),
    "vmm/devices": ("vmm/image", "vmm/base", "abi"),
    "vmm/confine": ("vmm/image", "vmm/base", "abi"),
    "vmm/image": ("vmm/qcow2", "vmm/base", "abi"),
    "vmm/qcow2": ("vmm/base",),
    "vmm/request": ("vmm/base", "abi"),
    "vmm/kvm": ("vmm/base",),
    "vmm/base": ("abi",),
    "vmm/__init__.py": (),
    # Tests and scripts. A promise's tests use what all share, and nothing of another promise.
    "scripts": (
        *("tests/baselines", "tests/crash", "tests/differential", "tests/fuzz", "tests/inspect"),
        *("tests/keys", "tests/mutants", "tests/repair", "scripts/bench_*.py", *_TESTED_WITH),
        "scripts/enter_*.py",
    ),
    # But to look at an image is a promise about all of them, whoever made it.
    "tests/inspect": ("tests/baselines", "tests/differential", "tests/hostile", *_TESTED_WITH),
    "tests/baselines": _TESTED_WITH,
    "tests/confinement": _TESTED_WITH,
    "tests/contract": _TESTED_WITH,
    "tests/crash": _TESTED_WITH,
    "tests/differential": _TESTED_WITH,
    "tests/fuzz": _TESTED_WITH,
    "tests/hostile": _TESTED_WITH,
    "tests/keys": _TESTED_WITH,
    "tests/locking": _TESTED_WITH,
    "tests/mutants": _TESTED_WITH,
    "tests/oracle": _TESTED_WITH,
    "tests/places": _TESTED_WITH,
    "tests/repair": _TESTED_WITH,
    "tests/planner": _TESTED_WITH,
    "tests/sandbox": ("scripts/bench_*.py", *_TESTED_WITH),
    "tests/unit": ("tests/conftest.py", *_TESTED_WITH),
    "tests/conftest.py": ("tests/support",),
    "scripts/bench_*.py": _TESTED_WITH,
    "tests/support": ("scripts/build_*.py",),
    "scripts/hatch_*.py": ("scripts/build_*.py",),
    "scripts/enter_*.py": (),
    "scripts/site_*.py": (),
    "scripts/build_*.py": (),
    # The guest, and what is compiled into it and into a library of the tests.
    "guest/amend": (
        *("guest/operation", "guest/common", "shared/plan", "shared/image", "shared", "abi"),
    ),
    "guest/check": _LOOKS,
    "guest/info": _LOOKS,
    "guest/core": ("guest/common", "abi"),
    "guest/operation": ("shared/image", "abi"),
    "guest/common": ("abi",),
    "shared/host": ("shared/plan", "shared/amend", *_READERS),
    "shared/plan": ("shared/repair", "shared/amend/options", "shared/amend", *_READERS),
    "shared/repair": ("shared/inspect", "shared/amend", *_READERS),
    "shared/amend/options": ("shared/amend", *_READERS),
    "shared/amend": _READERS,
    "shared/inspect": _READERS,
    "shared/qcow2": ("shared/image", "shared", "abi"),
    "shared/image": ("shared", "abi"),
    "shared": ("abi",),
    "abi": (),
}
