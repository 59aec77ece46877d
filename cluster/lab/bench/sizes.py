"""How large the load is: what `--scale` chooses. Rates and agents fit two cores at `normal`; what the figures are stated for is `normal`."""

from typing import Final

from msgspec import Struct


class Sizes(Struct, frozen=True, kw_only=True):
    """Seconds are those of one window of measuring."""

    window_s: float
    warm_s: float
    agents: int  # that send results and log lines
    spread_per_s: int  # results a second in small batches
    connects: tuple[int, int]  # memory is the slope between the two
    few: int
    crowd: int
    crowd_per_s: int
    idle_s: float
    receivers: int  # agents that tasks go to
    calls: int  # HTTP connections of the control plane
    open_tasks: int
    pings: int
    xadds: int
    storm: int
    scale_nodes: tuple[int, ...] = (1, 2, 4)


SIZES: Final = {
    "tiny": Sizes(
        window_s=0.4, warm_s=0.1, agents=20, spread_per_s=100, connects=(10, 30), few=10, crowd=30, crowd_per_s=100, idle_s=0.6,
        receivers=5, calls=4, open_tasks=200, pings=50, xadds=2000, storm=20, scale_nodes=(1, 2),
    ),
    "small": Sizes(
        window_s=2, warm_s=0.5, agents=500, spread_per_s=1000, connects=(100, 600), few=200, crowd=1000, crowd_per_s=1000, idle_s=10,
        receivers=50, calls=32, open_tasks=5000, pings=1000, xadds=50_000, storm=500,
    ),
    "normal": Sizes(
        window_s=4, warm_s=1, agents=2000, spread_per_s=5000, connects=(500, 3000), few=1000, crowd=18_000, crowd_per_s=2000, idle_s=20,
        receivers=100, calls=64, open_tasks=20_000, pings=3000, xadds=200_000, storm=2000,
    ),
    "large": Sizes(
        window_s=10, warm_s=2, agents=4000, spread_per_s=10_000, connects=(1000, 9000), few=1000, crowd=18_000, crowd_per_s=5000, idle_s=40,
        receivers=400, calls=128, open_tasks=100_000, pings=10_000, xadds=1_000_000, storm=10_000, scale_nodes=(1, 2, 4, 8),
    ),
}  # fmt: skip
