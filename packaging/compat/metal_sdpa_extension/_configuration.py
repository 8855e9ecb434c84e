"""What quantised attention is told, by the original's names and numbers."""

from dataclasses import dataclass, field
from enum import IntEnum


class QuantizationPrecision(IntEnum):
    FP16 = 0
    BF16 = 1
    FP32 = 2
    INT8 = 3
    INT4 = 4


class QuantizationGranularity(IntEnum):
    TENSOR_WISE = 0
    ROW_WISE = 1
    BLOCK_WISE = 2
    HYBRID = 3


class HybridStrategy(IntEnum):
    PERFORMANCE_FIRST = 0
    ACCURACY_FIRST = 1
    BALANCED = 2


class OutputPrecision(IntEnum):
    FP32 = 0
    FP16 = 1
    BF16 = 2


LONG_NAMES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


@dataclass
class BlockSizeConfig:
    """Rows that share a scale; heads and queries do not, whatever is said of them."""

    query_block_size: int = 128
    key_block_size: int = 64
    value_block_size: int = 64
    head_block_size: int = 1

    def __init__(self, q_blk: int = 128, k_blk: int = 64, v_blk: int = 64, h_blk: int = 1) -> None:
        self.query_block_size, self.key_block_size = q_blk, k_blk
        self.value_block_size, self.head_block_size = v_blk, h_blk


@dataclass
class TensorAnalysisMetrics:
    """What hybrid granularity would look at, which is not there."""

    dynamic_range: float = 0.0
    variance: float = 0.0
    mean_abs_value: float = 0.0
    tensor_size: int = 0
    memory_footprint: int = 0
    sparsity_ratio: float = 0.0
    has_outliers: bool = False
    quantization_error_estimate: float = 0.0


@dataclass
class HybridGranularityConfig:
    """What hybrid granularity would come to, which is not there."""

    query_granularity: QuantizationGranularity = QuantizationGranularity.TENSOR_WISE
    key_granularity: QuantizationGranularity = QuantizationGranularity.TENSOR_WISE
    value_granularity: QuantizationGranularity = QuantizationGranularity.TENSOR_WISE
    query_blocks: BlockSizeConfig = field(default_factory=BlockSizeConfig)
    key_blocks: BlockSizeConfig = field(default_factory=BlockSizeConfig)
    value_blocks: BlockSizeConfig = field(default_factory=BlockSizeConfig)
    selection_reasoning: str = ""


@dataclass
class QuantizationConfig:
    """How attention quantises.

    Attributes
    ----------
    precision : {"int8", "int4"}, default "int8"
        Of keys and values; "int4" makes those that are INT8 INT4.
    query_precision : QuantizationPrecision, default FP16
        INT8 multiplies integers, for which queries are rounded to 8 bits. Floating ones change nothing.
    key_precision, value_precision : QuantizationPrecision, default INT8
        Floating ones are not quantised, and have to be that of the queries.
    granularity : QuantizationGranularity, default TENSOR_WISE
        What shares a scale: everything, a row of a head, or as many rows as `block_sizes` says.
    block_sizes : BlockSizeConfig
    output_precision : OutputPrecision, default FP32
        Of the result.
    is_causal : bool, default False
    scale : float or None, default None
        None is ``1 / sqrt(D)``.
    force_symmetric_quantization : bool, default False
        It is symmetric in any case.
    enable_mixed_precision, hybrid_strategy, enable_per_tensor_granularity, enable_adaptive_block_sizes
        Of no effect.
    """

    precision: str = "int8"
    query_precision: QuantizationPrecision = QuantizationPrecision.FP16
    key_precision: QuantizationPrecision = QuantizationPrecision.INT8
    value_precision: QuantizationPrecision = QuantizationPrecision.INT8
    granularity: QuantizationGranularity = QuantizationGranularity.TENSOR_WISE
    block_sizes: BlockSizeConfig = field(default_factory=BlockSizeConfig)
    output_precision: OutputPrecision = OutputPrecision.FP32
    is_causal: bool = False
    scale: float | None = None
    enable_mixed_precision: bool = True
    force_symmetric_quantization: bool = False
    hybrid_strategy: HybridStrategy = HybridStrategy.BALANCED
    enable_per_tensor_granularity: bool = False
    enable_adaptive_block_sizes: bool = True

    @staticmethod
    def string_to_quantization_precision(name: str) -> QuantizationPrecision:
        """What `name` stands for; of a name that is not known, INT8."""
        return _member(QuantizationPrecision, name, QuantizationPrecision.INT8)

    @staticmethod
    def string_to_precision(name: str) -> OutputPrecision:
        """What `name` stands for; of a name that is not known, FP32."""
        return _member(OutputPrecision, name, OutputPrecision.FP32)

    @staticmethod
    def precision_to_string(precision: OutputPrecision) -> str:
        return OutputPrecision(precision).name.lower()

    @staticmethod
    def quantization_precision_to_string(precision: QuantizationPrecision) -> str:
        return QuantizationPrecision(precision).name.lower()

    @staticmethod
    def granularity_to_string(granularity: QuantizationGranularity) -> str:
        return QuantizationGranularity(granularity).name.lower()

    @staticmethod
    def string_to_granularity(name: str) -> QuantizationGranularity:
        """What "row_wise" or "row" and so on stand for; of a name that is not known, TENSOR_WISE."""
        name = name if name.endswith("_wise") or name == "hybrid" else f"{name}_wise"
        return _member(QuantizationGranularity, name, QuantizationGranularity.TENSOR_WISE)

    def validate_config(self) -> bool:
        """Whether blocks, where there are any, have rows."""
        sizes = vars(self.block_sizes).values()
        return self.granularity != QuantizationGranularity.BLOCK_WISE or all(size > 0 for size in sizes)

    def get_recommended_output_precision(self) -> OutputPrecision:
        """`output_precision` if that is not FP32, else what the inputs make enough."""
        if self.output_precision != OutputPrecision.FP32:
            return self.output_precision
        inputs = {self.query_precision, self.key_precision, self.value_precision}
        if inputs & {QuantizationPrecision.INT8, QuantizationPrecision.INT4}:
            return OutputPrecision.FP16
        return OutputPrecision[QuantizationPrecision(self.query_precision).name]


def _member(enumeration, name, default):
    name = LONG_NAMES.get(name, name).upper()
    return enumeration[name] if name in enumeration.__members__ else default
