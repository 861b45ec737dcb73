"""Older names of the packages: `edge_sdk` for `rrise.edge_sdk`, and modules by the places they had in 0.1.

A robot writes `from edge_sdk import Certifier`, and a checkout on the import path offers its folders by their own names. Whatever
the name, a file is loaded once: the older name gives the same module object.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import CodeType, ModuleType
from typing import Any, Dict, Optional, Sequence

from rrise.deprecations import warn

ROOTS = ("calibration", "edge_sdk", "export", "trainer")
# Where the modules of version 0.1 are now, below rrise.
MOVED: Dict[str, str] = {
    "calibration.attempts": "calibration.storage.attempts",
    "calibration.bounds": "calibration.statistics.bounds",
    "calibration.certify": "calibration.tables.certify",
    "calibration.cli_options": "calibration.commands.options",
    "calibration.cli_study": "calibration.commands.study",
    "calibration.cli_tools": "calibration.console",
    "calibration.cost": "calibration.tables.cost",
    "calibration.crossfit": "calibration.promise.crossfit",
    "calibration.digests": "calibration.storage.digests",
    "calibration.drift": "calibration.statistics.drift",
    "calibration.evaluation": "calibration.tables.evaluation",
    "calibration.execution": "calibration.storage.execution",
    "calibration.files": "calibration.storage.files",
    "calibration.fit": "calibration.promise.fit",
    "calibration.guarantee": "calibration.promise.guarantee",
    "calibration.guard_study": "calibration.reports.guard_study",
    "calibration.guarded": "calibration.promise.guarded",
    "calibration.head": "calibration.promise.head",
    "calibration.latency": "calibration.tables.latency",
    "calibration.levels": "calibration.statistics.levels",
    "calibration.maps": "calibration.promise.maps",
    "calibration.offsets": "calibration.promise.offsets",
    "calibration.page": "calibration.reports.page",
    "calibration.plan": "calibration.promise.plan",
    "calibration.plots": "calibration.reports.plots",
    "calibration.probit": "calibration.statistics.probit",
    "calibration.quantile": "calibration.promise.quantile",
    "calibration.ranks": "calibration.statistics.ranks",
    "calibration.record": "calibration.promise.record",
    "calibration.references": "calibration.tables.references",
    "calibration.report": "calibration.reports.report",
    "calibration.scores": "calibration.tables.scores",
    "calibration.selective": "calibration.promise.selective",
    "calibration.sequential": "calibration.statistics.sequential",
    "calibration.study": "calibration.reports.study",
    "calibration.study_page": "calibration.reports.study_page",
    "calibration.summary": "calibration.reports.summary",
    "calibration.thinning": "calibration.tables.thinning",
    "calibration.verification": "calibration.statistics.proposals",
    "edge_sdk.answering": "edge_sdk.certifying.answering",
    "edge_sdk.asking": "edge_sdk.certifying.asking",
    "edge_sdk.audit": "edge_sdk.device.audit",
    "edge_sdk.bench": "edge_sdk.operate.bench",
    "edge_sdk.binomial": "edge_sdk.device.binomial",
    "edge_sdk.bundle": "edge_sdk.bundles.bundle",
    "edge_sdk.cli_device": "edge_sdk.commands.device",
    "edge_sdk.cli_operate": "edge_sdk.commands.operate",
    "edge_sdk.cli_options": "edge_sdk.commands.options",
    "edge_sdk.cli_references": "edge_sdk.commands.references",
    "edge_sdk.contract": "edge_sdk.formats.contract",
    "edge_sdk.device_calibration": "edge_sdk.device.device_calibration",
    "edge_sdk.drift": "edge_sdk.device.drift",
    "edge_sdk.encodings": "edge_sdk.frames.encodings",
    "edge_sdk.fit": "edge_sdk.device.belonging",
    "edge_sdk.images": "edge_sdk.frames.images",
    "edge_sdk.inputs": "edge_sdk.frames.inputs",
    "edge_sdk.loading": "edge_sdk.device.loading",
    "edge_sdk.manifest": "edge_sdk.formats.manifest",
    "edge_sdk.noise": "edge_sdk.formats.noise",
    "edge_sdk.png_pack": "edge_sdk.frames.png_pack",
    "edge_sdk.probe": "edge_sdk.bundles.probe",
    "edge_sdk.replay": "edge_sdk.device.replay",
    "edge_sdk.scoring": "edge_sdk.bundles.runtime_scores",
    "edge_sdk.sealed": "edge_sdk.formats.sealed",
    "edge_sdk.signing": "edge_sdk.formats.signing",
    "edge_sdk.suspension": "edge_sdk.device.suspension",
    "edge_sdk.verification_record": "edge_sdk.device.verification_record",
    "edge_sdk.verified": "edge_sdk.auditing.proposals",
    "edge_sdk.verify": "edge_sdk.device.verify",
    "edge_sdk.verify_report": "edge_sdk.device.verify_report",
    "export.baseline": "export.gating.baseline",
    "export.bundle": "export.releasing.bundle",
    "export.bundle_report": "export.releasing.bundle_report",
    "export.cache": "export.releasing.cache",
    "export.compare": "export.gating.compare",
    "export.engine": "export.lowering.engine",
    "export.export_report": "export.releasing.export_report",
    "export.gate": "export.gating.gate",
    "export.gate_guarded": "export.gating.gate_guarded",
    "export.gate_report": "export.gating.gate_report",
    "export.graph": "export.lowering.graph",
    "export.guarded": "export.lowering.guarded",
    "export.head": "export.lowering.head",
    "export.keys": "export.releasing.keys",
    "export.latency": "export.releasing.latency",
    "export.lower": "export.lowering.lower",
    "export.operators": "export.lowering.operators",
    "export.pack": "export.releasing.pack",
    "export.policy": "export.gating.policy",
    "export.precision": "export.lowering.precision",
    "export.quality": "export.gating.quality",
    "export.recheck": "export.releasing.recheck",
    "export.summaries": "export.releasing.summaries",
    "trainer.agree": "trainer.counts.agree",
    "trainer.attack": "trainer.attacks.attack",
    "trainer.base": "trainer.base_classifier.stage",
    "trainer.base_checks": "trainer.base_classifier.checks",
    "trainer.base_file": "trainer.classifiers.base_file",
    "trainer.base_training": "trainer.base_classifier.training",
    "trainer.blackbox": "trainer.classifiers.blackbox",
    "trainer.calibrate": "trainer.scores.calibrate",
    "trainer.certify": "trainer.counts.certify",
    "trainer.choice": "trainer.scores.choice",
    "trainer.cli_start": "trainer.commands.start",
    "trainer.config": "trainer.settings.config",
    "trainer.config_checks": "trainer.settings.checks",
    "trainer.counting": "trainer.counts.counting",
    "trainer.difficulty": "trainer.surrogates.difficulty",
    "trainer.montecarlo.identity": "trainer.montecarlo.storage.identity",
    "trainer.montecarlo.location": "trainer.montecarlo.storage.location",
    "trainer.montecarlo.lock": "trainer.data.lock",
    "trainer.montecarlo.metadata": "trainer.montecarlo.storage.metadata",
    "trainer.montecarlo.store": "trainer.montecarlo.storage.store",
    "trainer.network_checks": "trainer.brought.network_checks",
    "trainer.onnx_files": "trainer.brought.onnx_files",
    "trainer.scoring": "trainer.scores.surrogate_scores",
    "trainer.search": "trainer.attacks.search",
    "trainer.settings_text": "trainer.settings.text",
    "trainer.specs": "trainer.base_classifier.specs",
    "trainer.starting": "trainer.commands.presets",
    "trainer.surrogate": "trainer.surrogates.stage",
    "trainer.surrogate_training": "trainer.surrogates.training",
    "trainer.targets": "trainer.counts.targets",
    "trainer.user_code": "trainer.brought.user_code",
}


def present_name(name: str) -> str:
    """The name below rrise of a module that is asked for by an older name."""
    parts = name.split(".")
    for count in range(len(parts), 1, -1):
        head = ".".join(parts[:count])
        if head in MOVED:
            return ".".join(["rrise", MOVED[head], *parts[count:]])
    return f"rrise.{name}"


class _Loader(importlib.abc.Loader):
    """Hands out the module that is already there instead of running its file again."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._spec: Any = None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._target)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # the import machinery has put the older name there

    def get_code(self, name: str) -> Optional[CodeType]:
        """For `python -m edge_sdk.cli`."""
        spec = importlib.util.find_spec(self._target)
        assert spec is not None and spec.loader is not None
        code: Optional[CodeType] = spec.loader.get_code(self._target)  # type: ignore[attr-defined]
        return code


class _Finder(importlib.abc.MetaPathFinder):
    """Finds `edge_sdk.x` at `rrise.edge_sdk.x`, once `edge_sdk` itself stands for `rrise.edge_sdk`."""

    def find_spec(
        self, name: str, path: Optional[Sequence[str]] = None, target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        root = name.split(".")[0]
        if (
            "." not in name
            or root not in ROOTS
            or sys.modules.get(root) is not sys.modules.get(f"rrise.{root}")
        ):
            return None
        present = present_name(name)
        try:
            found = importlib.util.find_spec(present)
        except ModuleNotFoundError:
            return None
        if found is None:
            return None
        if present != f"rrise.{name}":
            warn("moved-modules", name, stacklevel=2)
        package = found.submodule_search_locations is not None
        return importlib.machinery.ModuleSpec(name, _Loader(present), origin=found.origin, is_package=package)


def stand_in(name: str) -> None:
    """Let the top-level name stand for the package below rrise, submodules included. Called by the package's own file."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    sys.modules[name] = importlib.import_module(f"rrise.{name}")
