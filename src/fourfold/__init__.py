"""fourfold: papers on convolution, attention, frequency and light, rebuilt, run and judged."""

from fourfold.chapter import Chapter, open_chapter

__all__ = ["Chapter", "open_chapter"]
