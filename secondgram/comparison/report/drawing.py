"""SVG panels: scales, ticks, axes and marks. Colours are classes of the page's style, so that they follow its theme."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...evaluation.metrics import Estimate
from .html import Child, Html, join, tag
from .labels import number

WIDTH, HEIGHT = 440.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 48.0, 10.0, 30.0, 44.0
Format = Callable[[float], str]


@dataclass(frozen=True)
class Scale:
    """Linear, from low .. high to the pixels start .. end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high

    def cut(self, value: float) -> float:
        """The nearest value that is on the scale."""
        return min(max(value, self.low), self.high)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers on the scale, about so many."""
        raw = (self.high - self.low) / max(about, 1)
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(k * step, 10) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def spanning(values: Sequence[float], margin: float = 0.05, zero: bool = False) -> tuple[float, float]:
    """Ends of a scale that holds the values and a margin; never empty."""
    found = [value for value in values if math.isfinite(value)] + ([0.0] if zero else [])
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    space = (high - low) * margin or abs(high) * 0.1 or 1.0
    return low - space, high + space


def decimals(ticks: Sequence[float]) -> Format:
    """A format with as many decimals as the ticks need."""
    digits = next((d for d in range(6) if all(abs(round(t, d) - t) < 1e-9 for t in ticks)), 6)
    return lambda value: number(value, digits)


@dataclass(frozen=True)
class Frame:
    """A panel's two scales; y grows upwards."""

    x: Scale
    y: Scale
    width: float = WIDTH
    height: float = HEIGHT

    @classmethod
    def of(cls, x: tuple[float, float], y: tuple[float, float], width: float = WIDTH, height: float = HEIGHT) -> Frame:
        return cls(Scale(*x, LEFT, width - RIGHT), Scale(*y, height - BOTTOM, TOP), width, height)

    def axes(
        self,
        x_label: str,
        y_label: str,
        x_format: Format | None = None,
        y_format: Format | None = None,
        x_ticks: Sequence[float] | None = None,
    ) -> Html:
        """Grid lines, ticks and labels; the label of y is horizontal, above its axis."""
        xs, ys = self.x.ticks(6) if x_ticks is None else list(x_ticks), self.y.ticks(5)
        x_format, y_format = x_format or decimals(xs), y_format or decimals(ys)
        left, right = min(self.x.start, self.x.end), max(self.x.start, self.x.end)
        parts = [tag("line", x1=left, x2=right, y1=self.y(t), y2=self.y(t), class_="grid") for t in ys]
        parts += [tag("text", y_format(t), x=left - 8, y=self.y(t) + 4, class_="tick end") for t in ys]
        parts += [tag("text", x_format(t), x=self.x(t), y=self.y.start + 18, class_="tick middle") for t in xs]
        parts.append(tag("line", x1=left, x2=right, y1=self.y.start, y2=self.y.start, class_="axis"))
        parts.append(tag("text", y_label, x=0.0, y=14.0, class_="label"))
        parts.append(tag("text", x_label, x=right, y=self.height - 6, class_="label end"))
        return join(*parts)

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> Html:
        steps = " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)
        return tag("polyline", points=steps, class_=f"line {kind}")

    def segment(self, a: tuple[float, float], b: tuple[float, float], kind: str) -> Html:
        return tag("line", x1=self.x(a[0]), y1=self.y(a[1]), x2=self.x(b[0]), y2=self.y(b[1]), class_=kind)

    def svg(self, label: str, *children: Child) -> Html:
        return picture(label, self.width, self.height, *children)


def picture(label: str, width: float, height: float, *children: Child, kind: str = "panel") -> Html:
    """An SVG that scales with its place; `label` says what it shows, in words and numbers."""
    return tag(
        "svg", *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, class_=kind,
        preserveAspectRatio="xMidYMid meet",
    )  # fmt: skip


def mark(x: float, y: float, kind: str, size: float = 4.0) -> Html:
    """A point; the style fills it by its kind."""
    return tag("circle", cx=x, cy=y, r=size, class_=f"mark {kind}")


def between(share: float, start: float = 2.0, end: float = 98.0) -> str:
    """A place as a share of the width of an SVG without a viewBox: it stretches, and its marks and letters do not."""
    return f"{start + (end - start) * share:.2f}%"


def square(x: str, y: str, size: float) -> Html:
    """The mark of a worse value, centred on a place that is a share of the width."""
    # SVG percentages take a pixel offset only through a transform.
    return tag(
        "rect",
        x=x,
        y=y,
        width=2 * size,
        height=2 * size,
        transform=f"translate({-size:g} {-size:g})",
        class_="mark worse",
    )


def strip(
    estimate: Estimate, ends: tuple[float, float], label: str, kind: str = "ours", at: float | None = None
) -> Html:
    """An interval in a row of a table: as wide as its cell, on a scale that all rows share; `at` is a reference."""
    low_end, high_end = ends

    def place(value: float) -> str:
        share = (min(max(value, low_end), high_end) - low_end) / (high_end - low_end)
        return between(share)

    parts = []
    if at is not None:
        parts.append(tag("line", x1=place(at), x2=place(at), y1="0", y2="100%", class_="reference"))
    if estimate.known:
        if estimate.bounded:
            parts.append(
                tag(
                    "line",
                    x1=place(estimate.low),
                    x2=place(estimate.high),
                    y1="50%",
                    y2="50%",
                    class_=f"whisker {kind}",
                )
            )
        spot = place(estimate.value)
        parts.append(
            square(spot, "50%", 4.5)
            if kind == "worse"
            else tag("circle", cx=spot, cy="50%", r=4.5, class_=f"mark {kind}")
        )
    return tag("svg", *parts, role="img", aria_label=label, class_="strip", width="100%", height="24")
