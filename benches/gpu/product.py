"""What the benchmarks use of the package, in one place."""

from qlora_fast.data.batch import Batches, Row, packed_row
from qlora_fast.data.dataset import PreparedDataset, open_prepared
from qlora_fast.data.plan import EpochPlan, PlanOptions, epoch_plan
from qlora_fast.data.rung import ladder, row_sizes
from qlora_fast.model.attention import NAME as ATTENTION
from qlora_fast.model.compiled import CompiledLayers, layers_to_compile
from qlora_fast.model.flat_adapter import Adapter
from qlora_fast.model.fused_lora import fuse
from qlora_fast.model.kernels.launch import Launch, watched
from qlora_fast.model.kernels.registry import KERNELS, Kernel
from qlora_fast.model.kernels.registry import SHAPES as KERNEL_SHAPES
from qlora_fast.model.kernels.registry import Shape as KernelShape
from qlora_fast.model.load import quiet_libraries
from qlora_fast.model.lora import LoraSpec, add_lora
from qlora_fast.model.memory_estimate import Method, Shape, estimate
from qlora_fast.model.patch import patch, report_of
from qlora_fast.train.forward import Forward
from qlora_fast.train.graphs import CudaRecorder, Graphs
from qlora_fast.train.optimizer import AdamW, AdamWOptions
from qlora_fast.train.progress import Log
from qlora_fast.train.schedule import Schedule
from qlora_fast.train.trainer import Hooks, Trainer, TrainOptions

__all__ = [
    "ATTENTION",
    "KERNELS",
    "KERNEL_SHAPES",
    "AdamW",
    "AdamWOptions",
    "Adapter",
    "Batches",
    "CompiledLayers",
    "CudaRecorder",
    "EpochPlan",
    "Forward",
    "Graphs",
    "Hooks",
    "Kernel",
    "KernelShape",
    "Launch",
    "Log",
    "LoraSpec",
    "Method",
    "PlanOptions",
    "PreparedDataset",
    "Row",
    "Schedule",
    "Shape",
    "TrainOptions",
    "Trainer",
    "add_lora",
    "epoch_plan",
    "estimate",
    "fuse",
    "ladder",
    "layers_to_compile",
    "open_prepared",
    "packed_row",
    "patch",
    "quiet_libraries",
    "report_of",
    "row_sizes",
    "watched",
]  # fmt: skip
