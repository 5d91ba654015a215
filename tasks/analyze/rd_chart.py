"""The rate-distortion chart of one clip, as the plain data that plotly.js draws.

Owns what is drawn and how it stands out: anchors dashed, the leading candidates solid, all others faint, the targets as
lines. Colours of the page (text, grid) are the report's template's, which knows whether the reader's screen is dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

from tasks.analyze.leaderboard import Standing
from tasks.analyze.verdicts import kbps_1080p30
from tasks.campaign import Targets
from tasks.store.records import PointRecord

Chart = dict[str, Any]

# Middle tones that hold on a light and on a dark page, told apart with any colour vision beside dashes and markers.
LEADER_COLOURS = ("#1f8fe0", "#e8743b", "#17a689")
ANCHOR_COLOURS = ("#a06cc4", "#b98a1b")
ANCHOR_DASHES = ("dash", "dot")
FAINT = "rgba(128,134,145,0.6)"
TARGET = "#2e9e5b"


def rd_chart(
    clip: str, anchors: Sequence[Standing], leaders: Sequence[Standing], others: Sequence[Standing], targets: Targets
) -> Chart | None:
    """PSNR-Y in dB over kbps (log axis) as {"data": traces, "layout": layout}; None where no point of `clip` is known.

    Draws at most as many anchors and leaders as there are colours.
    """
    points = [point for row in (*anchors, *leaders, *others) for point in points_on(row, clip)]
    if not points:
        return None
    traces = [_faint(clip, others)] if any(points_on(row, clip) for row in others) else []
    for row, colour, dash in zip(anchors, ANCHOR_COLOURS, ANCHOR_DASHES, strict=False):
        traces.append(_trace(row, clip, {"color": colour, "dash": dash, "width": 2}, "diamond"))
    for row, colour in zip(leaders, LEADER_COLOURS, strict=False):
        traces.append(_trace(row, clip, {"color": colour, "width": 2.5}, "circle"))
    # The target is for 1080p30; on this clip's size and frame rate it is that much less.
    target_kbps = targets.kbps * points[0].kbps / kbps_1080p30(points[0])
    return {"data": traces, "layout": _layout(points, target_kbps, targets)}


def points_on(row: Standing, clip: str) -> tuple[PointRecord, ...]:
    """The points of one experiment on one clip, by rising rate."""
    return next((standing.points for standing in row.clips if standing.clip == clip), ())


def _trace(row: Standing, clip: str, line: Chart, symbol: str) -> Chart:
    points = points_on(row, clip)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": _name(row),
        "x": [point.kbps for point in points],
        "y": [point.psnr_y for point in points],
        "text": [_said(row, point) for point in points],
        "hovertemplate": "%{text}<extra></extra>",
        "line": line,
        "marker": {"size": 7, "symbol": symbol},
    }


def _faint(clip: str, rows: Sequence[Standing]) -> Chart:
    """All of them as one trace, with a gap between curves: one entry in the legend, one object to draw."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str | None] = []
    for row in rows:
        for point in points_on(row, clip):
            x.append(point.kbps)
            y.append(point.psnr_y)
            text.append(_said(row, point))
        for values in (x, y, text):
            values.append(None)
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": f"other candidates ({len(rows)})",
        "x": x,
        "y": y,
        "text": text,
        "hovertemplate": "%{text}<extra></extra>",
        "line": {"color": FAINT, "width": 1},
        "marker": {"size": 3},
    }


def _name(row: Standing) -> str:
    # plotly.js reads a little markup in texts; names come from candidates.
    return html.escape(f"{row.experiment_id}: {row.summary}")


def _said(row: Standing, point: PointRecord) -> str:
    return (
        f"{_name(row)}<br>{point.kbps:.4g} kbps ({kbps_1080p30(point):.0f} at 1080p30)<br>"
        f"PSNR-Y {point.psnr_y:.2f} dB, SSIM-Y {point.ssim_y:.4f}"
    )


def _layout(points: Sequence[PointRecord], target_kbps: float, targets: Targets) -> Chart:
    rates = [point.kbps for point in points if point.kbps > 0] + [target_kbps]
    qualities = [point.psnr_y for point in points] + [targets.psnr_db]
    low, high = math.log10(min(rates) / 1.3), math.log10(max(rates) * 1.3)
    bottom, top = min(qualities) - 1, max(qualities) + 1
    line = {"type": "line", "line": {"color": TARGET, "width": 1.2, "dash": "dot"}}
    label = {"showarrow": False, "font": {"size": 11, "color": TARGET}}
    return {
        "xaxis": {"type": "log", "range": [low, high], "tickvals": _ticks(low, high), "title": {"text": "kbps (log)"}},
        "yaxis": {"range": [bottom, top], "title": {"text": "PSNR-Y (dB)"}},
        "shapes": [
            {
                "type": "rect",
                "layer": "below",
                "line": {"width": 0},
                "fillcolor": TARGET,
                "opacity": 0.1,
                "x0": 10**low,
                "x1": target_kbps,
                "y0": targets.psnr_db,
                "y1": top,
            },
            line | {"x0": target_kbps, "x1": target_kbps, "yref": "paper", "y0": 0, "y1": 1},
            line | {"xref": "paper", "x0": 0, "x1": 1, "y0": targets.psnr_db, "y1": targets.psnr_db},
        ],
        "annotations": [
            label
            | {"x": math.log10(target_kbps), "xanchor": "left", "yref": "paper", "y": 0, "yanchor": "bottom"}
            | {"text": f" ≤ {target_kbps:.4g} kbps ({targets.kbps:g} at 1080p30)"},
            label
            | {"xref": "paper", "x": 1, "xanchor": "right", "y": targets.psnr_db, "yanchor": "bottom"}
            | {"text": f"≥ {targets.psnr_db:g} dB"},
        ],
    }


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade between two powers of ten: plotly's own choice repeats bare digits."""
    decades = range(math.floor(low), math.ceil(high) + 1)
    return [tick for decade in decades for tick in (10.0**decade, 2 * 10.0**decade, 5 * 10.0**decade)]
