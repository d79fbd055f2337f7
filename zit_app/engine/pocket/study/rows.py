"""The trainings of the study: each differs from the plain one, or from the one at the nodes, in one thing."""

from dataclasses import dataclass

STEPS, RATE = 120, 6e-4  # the rate that so small a model needs: six times the documents'
COMMON = (
    f"training.max_steps={STEPS}",
    f"training.learning_rate={RATE}",
    "training.compute=bf16",
    "acrf.base=mse",
    "lora.layers=",
    "training.protection=none",
    "training.health_every=0",
    "training.sample_every=0",
    "training.save_every=0",
)
UNIFORM, NODES = ("acrf.sampler=uniform",), ("acrf.sampler=anchor",)
BASE, FASTER = ("training.protection=base",), ("training.learning_rate=2e-3",)
CHARBONNIER = (*NODES, "acrf.base=charbonnier")
COSINE = (*CHARBONNIER, "acrf.lambda_cos=0.1")
SPECTRUM = (*COSINE, "acrf.lambda_fft=0.1")
TETHER = (*NODES, "training.protection=tether")


@dataclass(frozen=True)
class Row:
    """One training: what it changes, and on how many of the 24 pictures."""

    changes: tuple[str, ...]
    pictures: int = 24


def _frequency(alpha: float, beta: float) -> Row:
    return Row((*NODES, "acrf.loss_mode=frequency", f"acrf.alpha_hf={alpha}", f"acrf.beta_lf={beta}"))


def _style(struct: float, color: float) -> Row:
    return Row((*NODES, "acrf.loss_mode=style", f"acrf.lambda_struct={struct}", f"acrf.lambda_color={color}"))


def _mixture(share: float) -> Row:
    return Row(("acrf.sampler=mixture", f"acrf.anchor_share={share}"))


ROWS: dict[str, Row] = {
    "uniform": Row(UNIFORM),
    "nodes": Row(NODES),
    "shift": Row(("acrf.sampler=shift",)),
    "shifted sigmoid": Row(("acrf.sampler=shifted_sigmoid",)),
    "mixture, 1/4 nodes": _mixture(0.25),
    "mixture, 1/2 nodes": _mixture(0.5),
    "mixture, 3/4 nodes": _mixture(0.75),
    "4 nodes": Row((*NODES, "acrf.turbo_steps=4")),
    "10 nodes": Row((*NODES, "acrf.turbo_steps=10")),
    "20 nodes": Row((*NODES, "acrf.turbo_steps=20")),
    "γ 1": Row((*NODES, "acrf.snr_gamma=1")),
    "γ 5": Row((*NODES, "acrf.snr_gamma=5")),
    "γ 20": Row((*NODES, "acrf.snr_gamma=20")),
    "Charbonnier": Row(CHARBONNIER),
    "Charbonnier + cosine": Row(COSINE),
    "Charbonnier + cosine + FFT": Row(SPECTRUM),
    "AC-RF in full": Row((*SPECTRUM, "acrf.snr_gamma=5")),
    "frequency 1.0 / 0.2": _frequency(1.0, 0.2),
    "frequency 0.5 / 0.1": _frequency(0.5, 0.1),
    "frequency 1.5 / 0.3": _frequency(1.5, 0.3),
    "frequency 2.0 / 0.1": _frequency(2.0, 0.1),
    "style 1.0 / 0.3": _style(1.0, 0.3),
    "style 0.5 / 0.5": _style(0.5, 0.5),
    "style 1.5 / 0.2": _style(1.5, 0.2),
    "style 0.5 / 0.8": _style(0.5, 0.8),
    "unified": Row((*NODES, "acrf.loss_mode=unified")),
    "attention only": Row((*NODES, "lora.targets=attention")),
    "curvature": Row((*NODES, "acrf.curvature=1", "acrf.curvature_every=1")),
    "8 pictures": Row(NODES, pictures=8),
    "16 pictures": Row(NODES, pictures=16),
    "tether 0.5": Row((*TETHER, "training.tether=0.5", "training.tether_unrelated=0")),
    "tether 0.5, unrelated too": Row((*TETHER, "training.tether=0.5", "training.tether_unrelated=0.25")),
    "tether 3, unrelated as often": Row((*TETHER, "training.tether=3", "training.tether_unrelated=1")),
    "training adapter": Row((*NODES, "training.protection=adapter")),
    "uniform, a quarter of the rate": Row((*UNIFORM, "training.learning_rate=1.5e-4")),
    "null space, rate 2e-3": Row((*UNIFORM, "training.protection=null_space", *FASTER)),
    "on the base's weights": Row((*UNIFORM, *BASE)),
    "on the base's weights, at the nodes": Row((*NODES, *BASE)),
    "uniform, rate 2e-3": Row((*UNIFORM, *FASTER)),
    "on the base's weights, rate 2e-3": Row((*UNIFORM, *BASE, *FASTER)),
}
