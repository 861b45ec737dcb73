"""What an export measured, beside the workspace: `report/export.json` for machines, `report/export.html` for people.

Latency stays out of the bundle, whose bytes repeat.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence

from rrise.calibration.reports.page import Page
from rrise.calibration.storage.files import atomic_file, write_json
from rrise.export.gating.quality import Quality, by_quantity, flags, latency_ratios, quality_table
from rrise.export.lowering.operators import foreign_operators
from rrise.export.releasing.bundle_report import promise_part
from rrise.export.releasing.latency import measure_latency
from rrise.export.source import ExportSource

if TYPE_CHECKING:
    from rrise.export.pipeline import ExportResult
    from rrise.export.releasing.bundle import Product

FORMATS = ("rrise-export-report/1",)


def save_export_report(result: "ExportResult", source: ExportSource, notes: Sequence[str] = ()) -> None:
    """Measure latency on this processor and write both files. notes: what else to say, beside what is found here."""
    models = {product.name: product.model for product in result.products}
    samples = measure_latency(models, source.verification.frames)
    latency = latency_ratios(samples, result.products[0].name)
    found = [*notes, *flags(result.qualities), *operator_notes(result.products)]
    content: Dict[str, Any] = {
        "format": FORMATS[-1],
        "release": result.manifest.digest,
        "quality": [quality.to_json() for quality in result.qualities],
        "flags": flags(result.qualities),
        "notes": found,
        "latency": latency,
        "latency_rounds": len(samples[result.products[0].name]),
    }
    folder = source.path / "report"
    write_json(folder / "export.json", content)
    with atomic_file(folder / "export.html") as file:
        file.write(export_page(result.qualities, latency, found, content["latency_rounds"], source))


def operator_notes(products: "Sequence[Product]") -> List[str]:
    """A sentence for each operator that TensorRT on JetPack 6.2 may not take, with the layer that uses it first."""
    import onnx

    notes = []
    for product in products:
        for operator, layers in foreign_operators(onnx.load_model_from_string(product.model)).items():
            more = f" and {len(layers) - 1} more" if len(layers) > 1 else ""
            notes.append(
                f"{product.name}: operator {operator} in layer {layers[0]!r}{more} is not on the list of what TensorRT 10.3 "
                "(JetPack 6.2) takes; try `rrise-export tensorrt` on the device"
            )
    return notes


def export_page(
    qualities: Sequence[Quality],
    latency: Mapping[str, Mapping[str, float]],
    notes: Sequence[str],
    rounds: int,
    source: Optional[ExportSource] = None,
) -> bytes:
    """Size, offset, certified accuracy and latency of every precision, with their ratios to the first.

    Before them stands what is promised, where `source` says it.
    """
    page = Page("rrise export: what each precision is worth")
    if source is not None:
        promise_part(page, source)
    page.heading("Precisions")
    page.paragraph(
        f"Certified accuracy on {qualities[0].frames} verification frames, abstentions counted as wrong; net leaves out the "
        f"certificates that exceed the true radius by the frame's own Monte Carlo draws. Latency of the bare "
        f"forward pass on this processor, one thread, {rounds} rounds in which the precisions take turns. In brackets: ratio "
        f"to {qualities[0].artefact}."
    )
    header, rows = quality_table(qualities)
    timed = [
        [*row, *(_time(latency[quality.artefact], level) for level in ("p50", "p99"))]
        for quality, row in zip(qualities, rows)
    ]
    page.table(*by_quantity([*header, "latency p50", "latency p99"], timed))
    for quality in qualities:
        if quality.among_issued:
            page.note(f"{quality.artefact}: {quality.among_issued}.")
    for sentence in notes:
        page.note(sentence)
    return page.render().encode()


def _time(times: Mapping[str, float], level: str) -> str:
    return f"{times[f'{level}_us']:.0f} us ({times[f'{level}_ratio']:.3f}x)"
