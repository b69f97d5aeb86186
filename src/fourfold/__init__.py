"""fourfold: papers on convolution, attention, frequency and light, rebuilt, run and judged."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fourfold.chapter import Chapter, open_chapter

__all__ = ["Chapter", "open_chapter"]


def __getattr__(name: str) -> Any:
    # A chapter needs torch, which takes seconds to import; what only reads records should not wait for it.
    if name in __all__:
        from fourfold import chapter

        return getattr(chapter, name)
    raise AttributeError(f"module 'fourfold' has no attribute {name!r}")
