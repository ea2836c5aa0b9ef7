"""Does every engine give the same vectors? Each embeds one fixed set of inputs, and is compared with the first."""

from nemovlm.choices import FLOOR
from nemovlm.parity.cases import Case, parity_set
from nemovlm.parity.comparison import compare, open_engines
from nemovlm.parity.result import Comparison, Difference, Parity, engine_name, model_on_engine

__all__ = [
    "FLOOR",
    "Case",
    "Comparison",
    "Difference",
    "Parity",
    "compare",
    "engine_name",
    "model_on_engine",
    "open_engines",
    "parity_set",
]
