"""Names of a package that are imported when first used, so that parts work without the others' packages."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attach(
    package: dict[str, Any], names: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` (PEP 562) of a package.

    Args:
        package: its `globals()`.
        names: of each module, those that the package has from it. What else its `__all__` names
            is a module of the package.
    """
    module_of = {name: module for module, own in names.items() for name in own}

    def get(name: str) -> Any:
        if name not in package["__all__"]:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        if name in module_of:
            module = importlib.import_module(module_of[name])
            value = getattr(module, name, None) or importlib.import_module(
                f"{module.__name__}.{name}"
            )
        else:
            value = importlib.import_module(f"{package['__name__']}.{name}")
        package[name] = value
        return value

    return get, lambda: sorted({*package, *package["__all__"]})
