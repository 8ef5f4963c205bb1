"""Host side: the type array, without the package that it registers with.

On its import the builtin module asks for collections.abc, which stands for _collections_abc, and is
in a package that is ten times as much to import as the array itself.
"""

from __future__ import annotations

import _collections_abc
import sys

__all__ = ["array"]

_STOOD_FOR = ("collections", "collections.abc")

if sys.modules.keys() & {*_STOOD_FOR, "threading"}:  # another thread might see the stand-in
    from array import array
else:
    sys.modules.update(dict.fromkeys(_STOOD_FOR, _collections_abc))
    try:
        from array import array
    finally:
        for _name in _STOOD_FOR:
            del sys.modules[_name]
