"""Settings: one truth for type, default, range and help; bad input is named, with the nearest good one."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from zit_app.core.errors import ZitError, nearest
from zit_app.core.generate_settings import GenerateSettings, LoraUse, parse_lora, parse_size
from zit_app.core.settings import apply_set, describe, from_mapping, parse_toml, setting, to_toml
from zit_app.core.train_settings import (
    AcrfSettings,
    DatasetSettings,
    LoraSettings,
    TrainingSettings,
    TrainJob,
    TrainSettings,
    job_toml,
    load_job,
    load_preset,
    load_train_settings,
)

# The file of the AC-RF guide, as it stands there: loss_mode and snr_gamma under [training].
ACRF_CONFIG = """
[acrf]
turbo_steps = 10        # 锚点数（推理步数）
shift = 3.0             # Z-Image 官方值
jitter_scale = 0.02     # 锚点抖动

[lora]
network_dim = 16        # LoRA rank
network_alpha = 16      # LoRA alpha

[training]
learning_rate = 1e-4    # 学习率
num_train_epochs = 10   # 训练轮数
snr_gamma = 5.0         # Min-SNR 加权
loss_mode = "standard"  # 损失模式（见下方说明）

[dataset]
batch_size = 1
enable_bucket = true
max_sequence_length = 512  # 文本序列长度
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "acrf_config.toml"
    path.write_text(ACRF_CONFIG, encoding="utf-8")
    return path


def test_the_documents_config_loads_unchanged(config: Path) -> None:
    settings = load_train_settings(config)
    assert settings.acrf == AcrfSettings(turbo_steps=10, snr_gamma=5.0)
    assert settings.lora.network_alpha == 16.0 and isinstance(settings.lora.network_alpha, float)
    assert (settings.training, settings.dataset) == (TrainingSettings(), DatasetSettings())


def test_set_comes_on_top_whichever_table_it_names(config: Path) -> None:
    settings = load_train_settings(config, ["acrf.snr_gamma=0", "training.loss_mode=frequency", "lora.network_dim = 4"])
    assert (settings.acrf.snr_gamma, settings.acrf.loss_mode, settings.lora.network_dim) == (0.0, "frequency", 4)
    numbers = load_train_settings(config, ["lora.layers=3", "dataset.trigger_word=2024"])
    assert (numbers.lora.layers, numbers.dataset.trigger_word) == ("3", "2024")


@pytest.mark.parametrize(
    "assignment, says",
    [
        ("training.lerning_rate=1", "Did you mean 'learning_rate'?"),
        ("trainin.learning_rate=1", "Did you mean 'training'?"),
        ("training.learning_rate=fast", "is not a number"),
        ("training.learning_rate=2", "Allowed: 0 to 1."),
        ("dataset.further_resolutions=[64, 8]", "Allowed: 16 to 4096."),
        ("training.seed=1.5", "is not a whole number"),
        ("training.gradient_checkpointing=1", "is not true or false"),
        ("acrf.loss_mode=standart", "Allowed: standard | frequency | style | unified."),
        ("learning_rate=1", "table.key=value"),
        ("training.learning_rate", "table.key=value"),
    ],
)
def test_a_bad_assignment_is_named_with_its_remedy(config: Path, assignment: str, says: str) -> None:
    with pytest.raises(ZitError, match="^") as caught:
        load_train_settings(config, [assignment])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_key_in_two_tables_with_two_values_is_refused(config: Path) -> None:
    config.write_text(ACRF_CONFIG.replace("[lora]", 'loss_mode = "style"\n[lora]'), encoding="utf-8")
    with pytest.raises(ZitError, match="loss_mode is given twice"):
        load_train_settings(config)


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    with pytest.raises(ZitError, match="no settings file"):
        load_train_settings(tmp_path / "missing.toml")
    (tmp_path / "broken.toml").write_text("[acrf\n")
    with pytest.raises(ZitError, match="broken.toml is not valid TOML.*line 1"):
        load_train_settings(tmp_path / "broken.toml")
    with pytest.raises(ZitError, match="no preset 'balancd'. Did you mean 'balanced'"):
        load_preset("balancd")


def test_the_frozen_input_of_a_run_reads_back_and_explains_itself(tmp_path: Path) -> None:
    settings = TrainSettings(training=replace(TrainingSettings(), learning_rate=3e-5), lora=LoraSettings(8, 4.0))
    job = TrainJob('a "model"', "C:\\pictures\\ünï", "style")
    text = job_toml(settings, job)
    (tmp_path / "settings.toml").write_text(text, encoding="utf-8")
    assert load_job(tmp_path / "settings.toml") == (settings, job)
    assert load_train_settings(tmp_path / "settings.toml") == settings
    assert "jitter_scale = 0.02 # Jitter around a node [sigma]" in text


def test_key_names_are_unique_over_the_tables() -> None:
    names = [
        info.name
        for table in (AcrfSettings, LoraSettings, TrainingSettings, DatasetSettings)
        for info in describe(table)
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("table", [AcrfSettings, LoraSettings, TrainingSettings, DatasetSettings, GenerateSettings])
def test_every_setting_has_help_and_a_default_that_it_allows(table: type) -> None:
    for info in describe(table):
        assert info.help and not info.help.endswith(".")
        assert from_mapping(table, {info.name: info.default}, "defaults") == table()


def test_generate_settings_survive_toml_with_their_adapters() -> None:
    settings = GenerateSettings(
        prompts=("苹果", "two\nlines"), sigmas=(1.0, 0.5), loras=(LoraUse("a.safetensors", 0.5, 1, 2), LoraUse("b"))
    )
    assert from_mapping(GenerateSettings, parse_toml(to_toml(settings), "text"), "text") == settings


@pytest.mark.parametrize(
    "text, use",
    [
        ("a.safetensors", LoraUse("a.safetensors")),
        ("a.safetensors@0.8", LoraUse("a.safetensors", 0.8)),
        ("a@b/c.safetensors@-1@2-4", LoraUse("a@b/c.safetensors", -1.0, 2, 4)),
        ("C:\\me@home\\a.safetensors", LoraUse("C:\\me@home\\a.safetensors")),
    ],
)
def test_lora_words(text: str, use: LoraUse) -> None:
    assert parse_lora(text) == use


@pytest.mark.parametrize("text", ["a@1@3-2", "a@1@0-2", ""])
def test_lora_words_that_make_no_sense(text: str) -> None:
    with pytest.raises(ZitError):
        parse_lora(text)


def test_size_words() -> None:
    assert parse_size("1024x768") == (1024, 768)
    with pytest.raises(ZitError, match="Try 96x192"):
        parse_size("100x190")
    with pytest.raises(ZitError, match="WIDTHxHEIGHT"):
        parse_size("big")


def test_apply_set_leaves_its_input_alone() -> None:
    before = {"a": {"x": 1}}
    assert apply_set(before, "a.y=[1, 2]") == {"a": {"x": 1, "y": [1, 2]}}
    assert apply_set(before, "b.word=bare word") == {"a": {"x": 1}, "b": {"word": "bare word"}}
    assert before == {"a": {"x": 1}}


def test_nearest() -> None:
    assert nearest("Portrit", ["portrait", "style"]) == "portrait"
    assert nearest("zzz", ["portrait", "style"]) is None


def test_nothing_but_tables_can_stand_at_the_top(config: Path) -> None:
    config.write_text("acrf = 3\n")
    with pytest.raises(ZitError, match=r"\[acrf\] is not a table"):
        load_train_settings(config)


def test_a_setting_of_one_class_only_needs_the_field() -> None:
    @dataclass(frozen=True)
    class Tiny:
        size: int = setting(2, "Size", unit="pixels", minimum=1)

    (info,) = describe(Tiny)
    assert (info.type, info.default, info.unit, info.range) == (int, 2, "pixels", "at least 1")
