"""Settings of a small training, for processes, too, that must not load torch."""

from zit_app.core.train_settings import AcrfSettings, DatasetSettings, LoraSettings, TrainingSettings, TrainSettings


def small_settings(acrf: AcrfSettings | None = None, **training: object) -> TrainSettings:
    """Twelve steps of two batches of at most two pictures, a checkpoint every four steps."""
    values = dict(max_steps=12, gradient_accumulation_steps=2, save_every=4, learning_rate=1e-2, caption_dropout=0.3)
    values |= {"health_every": 0}
    return TrainSettings(
        acrf or AcrfSettings(),
        LoraSettings(network_dim=4, network_alpha=4.0),
        TrainingSettings(**{**values, **training}),  # type: ignore[arg-type]
        DatasetSettings(resolution=64, batch_size=2),
    )
