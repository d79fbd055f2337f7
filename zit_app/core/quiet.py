"""Keep libraries from talking to the user: what they have to say is for developers."""

import logging
import os
import warnings

from zit_app.core.lean import lean

_ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TQDM_DISABLE": "1",  # "Loading checkpoint shards"; our own progress has no use for tqdm
    "TOKENIZERS_PARALLELISM": "false",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}


def quiet() -> None:
    """Silence warnings and log records below "error" of every library; call it before any of them is imported.

    What a user has set in the environment stays. Errors still reach standard error. They start quicker, too (`lean`).
    """
    lean()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")
    # A level on the root logger would leave those loggers alone that libraries give a level of their own.
    logging.disable(logging.WARNING)
