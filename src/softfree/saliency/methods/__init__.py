"""The explanation methods: one file each, with its form in memory and its streamed form beside each other.

Not with captum (0.9): its LayerIntegratedGradients and layer inputs refuse modules that take a mask and a grid beside
their tokens, its LayerGradCam averages over features instead of tokens, and it knows neither padded tokens nor streams.
"""

from __future__ import annotations

from softfree.models.classifier import Classifier
from softfree.models.pooling import TopK
from softfree.saliency.methods.attention_weights import ATTENTION
from softfree.saliency.methods.base import ForwardPass, MapRequest, Method, StreamedPass
from softfree.saliency.methods.gradients import GRADCAM, GRADIENT
from softfree.saliency.methods.integrated_gradients import INTEGRATED
from softfree.saliency.methods.logit_decomposition import SPLIT
from softfree.saliency.methods.occlusion import OCCLUSION
from softfree.saliency.methods.rollout import ROLLOUT
from softfree.saliency.options import MapMethod
from softfree_runtime.core.errors import UserError, unknown_name

__all__ = ["METHODS", "STREAMED", "ForwardPass", "MapRequest", "Method", "StreamedPass"]

METHODS: dict[str, Method] = {
    "integrated": INTEGRATED,
    "occlusion": OCCLUSION,
    "split": SPLIT,
    "gradient": GRADIENT,
    "gradcam": GRADCAM,
    "rollout": ROLLOUT,
    "attention": ATTENTION,
}
STREAMED = tuple(name for name, method in METHODS.items() if method.stream is not None)


def known_method(method: str) -> str:
    """Return a method's name; UserError if it is unknown."""
    if method not in METHODS:
        raise unknown_name("method", method, METHODS)
    return method


def default_methods(model: Classifier) -> tuple[MapMethod, MapMethod]:
    """Choose two methods to compare, the more useful one first; the sums of both agree in sign with the prediction.

    A head that selects tokens shows directly where its evidence is. Of an average, the parts of the logit are a poor
    guide to what matters, and integrated gradients a good one: see docs/how-to/explain.md.
    """
    return "split" if isinstance(model.pooling, TopK) else "integrated", "occlusion"


def streamed_defaults(model: Classifier) -> tuple[MapMethod, MapMethod]:
    """Choose two methods that stream, the more useful one first."""
    return ("gradcam", "gradient") if model.pool == "token" else ("split", "gradcam")


def does_not_stream(method: str) -> str:
    """Error message for a method that does not stream."""
    known = ", ".join(STREAMED)
    return f"--method {method} does not stream, since it runs the sample many times: expected {known}"


def refuse_unused(method: str, **parameters: object) -> None:
    """Refuse a layer, head or position that the method does not use."""
    takes = METHODS[method].takes
    for name, value in parameters.items():
        if value is not None and name not in takes:
            methods = ", ".join(other for other in METHODS if name in METHODS[other].takes)
            raise UserError(f"--{name} is not for --method {method}: leave it out, or choose one of: {methods}")
