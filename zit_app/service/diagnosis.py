"""One text for whoever asks for help: this machine, the last thing that went wrong. It names nobody."""

import getpass
import re
from pathlib import Path

from zit_app.core import paths
from zit_app.data.recipe import app_version
from zit_app.service import doctor, runs

LINES = 40  # of the log


def diagnosis() -> str:
    """The page of the doctor and the newest run that failed, without a person's name and folders.

    Takes as long as importing torch.
    """
    parts = [f"ZIT Studio {app_version()}", doctor.page(doctor.examine())]
    failed = next((run for run in runs.list_runs() if run.state in ("failed", "interrupted")), None)
    if failed is not None:
        parts.append(f"{failed.kind}, {failed.state} at step {failed.step} of {failed.total}")
        parts += [f"{failed.cause} {failed.remedy}".strip(), runs.log_tail(failed.folder, LINES)]
    return anonymous("\n\n".join(part for part in parts if part))


def anonymous(text: str) -> str:
    """The text with folders of this person named by what they are for, the longest first, and without their name."""
    places = {str(paths.home()): "<home folder>", str(paths.PROJECT): "<project>", str(Path.home()): "~"}
    for place in sorted(places, key=len, reverse=True):
        text = text.replace(place, places[place])
    name = getpass.getuser()
    return text if name == "root" else re.sub(rf"\b{re.escape(name)}\b", "<user>", text)
