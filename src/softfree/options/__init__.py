"""Everything a user can set, as typed fields: the same names on the command line, in YAML and in Python.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from softfree.options.conversion import ConvertOptions
from softfree.options.explaining import ExplainOptions
from softfree.options.exporting import ExportOptions
from softfree.options.features import FeatureOptions
from softfree.options.measuring import (
    AttentionBenchOptions,
    EdgeBenchOptions,
    LoaderBenchOptions,
    MapBenchOptions,
    ModelBenchOptions,
    OrderBenchOptions,
    PlanOptions,
    SpeedOptions,
    StreamBenchOptions,
)
from softfree.options.preparing import PrepareOptions
from softfree.options.pretraining import PretrainOptions
from softfree.options.studies import (
    AblationOptions,
    AttentionMapOptions,
    ConvergenceOptions,
    CoverageOptions,
    ExplainStudyOptions,
    RobustnessOptions,
)
from softfree.options.training import (
    Fit,
    ModelOptions,
    OptimizerOptions,
    PictureOptions,
    PoolName,
    Precision,
    PrecisionGiven,
    PresetName,
    RunOptions,
    SlideOptions,
    Split,
    StreamOptions,
    TableOptions,
    TrainOptions,
    VolumeOptions,
)
from softfree.options.using import CheckOptions, DemoOptions, EvaluateOptions, InferenceOptions, PredictOptions

__all__ = [
    "AblationOptions",
    "AttentionBenchOptions",
    "AttentionMapOptions",
    "CheckOptions",
    "ConvergenceOptions",
    "ConvertOptions",
    "CoverageOptions",
    "DemoOptions",
    "EdgeBenchOptions",
    "EvaluateOptions",
    "ExplainOptions",
    "ExplainStudyOptions",
    "ExportOptions",
    "FeatureOptions",
    "Fit",
    "InferenceOptions",
    "LoaderBenchOptions",
    "MapBenchOptions",
    "ModelBenchOptions",
    "ModelOptions",
    "OptimizerOptions",
    "OrderBenchOptions",
    "PictureOptions",
    "PlanOptions",
    "PoolName",
    "Precision",
    "PrecisionGiven",
    "PredictOptions",
    "PrepareOptions",
    "PresetName",
    "PretrainOptions",
    "RobustnessOptions",
    "RunOptions",
    "SlideOptions",
    "SpeedOptions",
    "Split",
    "StreamBenchOptions",
    "StreamOptions",
    "TableOptions",
    "TrainOptions",
    "VolumeOptions",
]
