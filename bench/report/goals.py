"""What the CPU kernels are to reach, as ratios of one window: those that the programs here can measure."""


def group_of(experts):
    return 0 if experts <= 8 else 1 if experts <= 32 else 2 if experts <= 64 else 3


FORWARD = {  # times the best peer that takes plain weights, by tokens and type; E = 8, 32, 64, 128
    (4096, "fp32"): (1.05, 1.08, 1.10, 1.18), (4096, "bf16"): (1.05, 1.08, 1.15, 1.22),
    (512, "fp32"): (1.10, 1.3, 1.3, 1.4), (512, "bf16"): (1.10, 1.5, 1.5, 1.6),
    (64, "fp32"): (1.5, 1.5, 1.5, 1.1), (64, "bf16"): (1.6, 1.6, 1.6, 1.25)}


def ratio(record):
    """The goal of a record against its best peer, or None."""
    shape, type_ = record["shape"], record["type"]
    if record["group"] == "forward":
        return FORWARD[shape["tokens"], type_][group_of(shape["experts"])]
    if record["group"] == "backward":
        if shape["tokens"] == 4096:
            if type_ == "bf16" and record["pass"] == "weight gradient" and shape["experts"] >= 32:
                return 1.2
            return (1.0, 1.05, 1.15, 1.15)[group_of(shape["experts"])]
        return 1.4 if shape["experts"] >= 64 else None
    return None


def share(record):
    """The goal of a record as a share of the peak, or None."""
    shape = record["shape"]
    if shape["tokens"] != 4096 or shape["experts"] == 1 or record["pass"] == "weight gradient":
        return None
    if shape["experts"] >= 128 or shape["out"] == 256:
        return 0.75 if record["type"] == "fp32" else 0.72
    return 0.85


DENSE = {"OpenBLAS": 1.10, "oneDNN": 1.05}
SKEW = 1.10   # Zipf's time over that of balanced rows, at most
ODD = 0.8     # an odd shape's rate over that of its even neighbour
SCALING = {True: 1.85, False: 1.3}  # all threads over one, where arithmetic bounds the product, and where memory does
