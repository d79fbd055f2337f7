"""The app's way to the captions of a dataset; a captioner in the worker writes through the same `data/edits.py`."""

from zit_app.data.editing import Edit
from zit_app.data.edits import Change, apply, changes, history, save_caption, undo

__all__ = ["Change", "Edit", "apply", "changes", "history", "save_caption", "undo"]
