"""textenv: text generation as a Gymnasium environment.

Importing it registers ``textenv/TextGeneration-v0`` and ``textenv/Toy-v0``; it loads neither torch nor transformers.
"""

import lazy_loader

from textenv.envs.registration import register_envs
from textenv.former_places import keep_former_places

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

register_envs()

keep_former_places(
    {
        "textenv.datasets.records": "textenv.datasets.rated_texts",
        "textenv.feedback.making": "textenv.feedback.items",
        "textenv.feedback.server.app": "textenv.feedback.app",
        "textenv.feedback.store.records": "textenv.feedback.store.contents",
        "textenv.report.records": "textenv.report.run_folder",
        "textenv.sampling.kernels": "textenv.kernels",
        "textenv.trajectories.trajectory": "textenv.trajectory",
    }
)
