"""Lets vLLM import torchvision where only its CUDA build is at hand and torch is a CPU build.

torchvision then dies at import: it gives a Python kernel to `torchvision::nms` and `torchvision::qnms`, whose schemas
are in its own library of operators, which cannot be loaded. vLLM needs its transforms on Pillow images alone, so
knowing the two schemas is enough. A line in a `.pth` file imports this in every interpreter of the environment,
vLLM's subprocesses among them; it acts when torchvision is first imported and touches nothing else.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries = []  # a library of operators that is collected takes its operators with it


class _BeforeTorchvision:
    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(cls)
            import torch

            library = torch.library.Library("torchvision", "DEF")
            for operator in ("nms", "qnms"):
                library.define(operator + _SCHEMA)
            _libraries.append(library)
        return None  # others find it


sys.meta_path.insert(0, _BeforeTorchvision)
