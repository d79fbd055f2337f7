"""Caption a dataset: what each picture shows, by a captioner, into `NAME.txt` beside it.

An answer is recorded before it is written, and a picture whose caption is the answer to the same question to the same
captioner is not asked about again. So a run goes on after any kill where it was, and a second one loads no model.
Captions that a person wrote or changed stay.
"""

from pathlib import Path

from zit_app.core.caption_settings import CaptionSettings
from zit_app.core.captioners import ENDPOINTS, POCKET, check_endpoint, folder_of
from zit_app.core.progress import Progress
from zit_app.core.run import Run
from zit_app.data import captioned, index
from zit_app.data.caption_questions import question
from zit_app.data.captioned import caption_file
from zit_app.data.captions import read_text
from zit_app.data.edits import JOURNAL, GrowingChange
from zit_app.data.index import Parts
from zit_app.data.pictures import DatasetScan, scan_dataset
from zit_app.engine.describing import Captioned, Plan, Session, chosen_folder

LARGEST_EMOJI = 512  # pixels a side; what is larger is a photograph or a drawing that nobody draws as an emoji


def caption(settings: CaptionSettings, run: Run, progress: Progress) -> Captioned:
    """Describe the pictures of a dataset that nobody has described.

    Raises ZitError for a folder without pictures, a captioner that is not here or cannot be loaded, a service that does
    not answer, and when one picture after the other fails.
    """
    folder = Path(settings.dataset)
    scan = scan_dataset(folder, index.load_known(folder))
    index.save_known(scan)
    done = Captioned(skipped=[(one.name, one.reason) for one in scan.skipped])
    plan = _planned(settings, scan, run, done)
    for name, why in done.skipped:
        progress.note(f"Skipped {name}: {why}")
    change = _change(folder, run, settings)
    for name, written in plan.write.items():
        change.write({name: written.after})
        done.written += 1
    if plan.ask and settings.captioner not in ENDPOINTS and chosen_folder(settings) == folder_of(POCKET):
        done.guessed = sum(max(item.size) > LARGEST_EMOJI for item, _, _ in plan.ask.values())
        if done.guessed:
            progress.note(done.warning)
    if plan.ask:
        Session(settings, plan, change, run, progress, done).work()
    return done


def _planned(settings: CaptionSettings, scan: DatasetScan, run: Run, done: Captioned) -> Plan:
    """Look at every picture; what needs no captioner is counted already."""
    trigger = settings.trigger.strip() or scan.options.trigger_word
    asked_for = question(settings.style_of_prompt, settings.language, trigger)
    plan = Plan({}, {}, asked_for, trigger, scan.options.background)
    shared: Parts = {"by": _identity(settings), "question": asked_for.text, "trigger": trigger}
    shared |= {"tokens": settings.max_tokens, "side": settings.side}
    records, owners = captioned.load(scan.folder), dict[Path, str]()
    unreadable = {name for name, _ in done.skipped}
    for item in scan.items:
        path = caption_file(scan.folder, item.name)
        first = owners.setdefault(path, item.name)
        if first != item.name:
            done.skipped.append((item.name, f"{path.name} is the caption of {Path(first).name}; rename one of them"))
            continue
        if path.relative_to(scan.folder).as_posix() in unreadable:  # a caption that is not UTF-8 text
            continue
        asked = index.fingerprint({**shared, "picture": item.sha256})
        last = records.get(item.name)
        match captioned.verdict(item, last, asked, run.folder.name, settings.overwrite):
            case "ask":
                plan.ask[item.name] = (item, read_text(path), asked)
            case "write":
                plan.write[item.name] = records[item.name]
            case "done":
                done.written += last is not None and last.run == run.folder.name
                done.current += last is not None and last.run != run.folder.name
            case _:
                done.kept += 1
    return plan


def _identity(settings: CaptionSettings) -> list[str]:
    """Who answers: address and model of a service, contents of a folder."""
    if settings.captioner in ENDPOINTS:
        return [settings.captioner, check_endpoint(settings.endpoint), settings.endpoint_model]
    return [index.component_fingerprint(chosen_folder(settings))]


def _change(folder: Path, run: Run, settings: CaptionSettings) -> GrowingChange:
    """The change to take back; of a run that goes on the one it began."""
    begun = run.status().get("change")
    return GrowingChange(folder, f"zit caption {settings.captioner}", folder / JOURNAL / begun if begun else None)
