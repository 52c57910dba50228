"""LLVM's text to machine code of this processor, in a few hundredths of a second; nothing is written to a disk."""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import binding


def compiled(text: str, name: str) -> tuple[Any, int]:
    """(what must be kept while the code is called, the address of the function ``name``)."""
    module = binding.parse_assembly(text)
    module.verify()
    engine = binding.create_mcjit_compiler(module, _machine())
    engine.finalize_object()
    return engine, engine.get_function_address(name)


def _machine() -> Any:
    _initialized()
    target = binding.Target.from_default_triple()
    features = binding.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=binding.get_host_cpu_name(), features=features, opt=3)


@cache
def _initialized() -> None:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
