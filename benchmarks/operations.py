"""Operations of every network that a decoder may run, per 1080p frame, counted by thop and by FlopCounterMode.

Below them each strategy's whole decoder on its scene of the golden file: what PyTorch dispatched. Motion search and
traditional decoders are no networks and are left out.

    python benchmarks/operations.py
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from codec.bitstream import EvcReader
from codec.complexity import count_module_operations, count_operations, per_1080p_frame
from codec.decoding_agent import DecodingAgent
from codec.networks.auto_decoder import CHANNELS, LightweightIFrameDecoder
from codec.networks.enhancement import NETWORKS, example_input
from codec.networks.temporal_consistency import TemporalConsistencyEnhancer
from codec.networks.video_generator import LightweightVideoGenerator
from codec.strategies import name_of

HEIGHT, WIDTH = 1080, 1920
BUDGET = 0.13
GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "codec" / "golden" / "every_strategy.evc"


def main() -> None:
    networks = {
        # works on half-size planes
        "semantic_latent LightweightIFrameDecoder": (
            LightweightIFrameDecoder(),
            torch.zeros(1, sum(CHANNELS), HEIGHT // 2, WIDTH // 2),
        ),
        **{
            f"hybrid_semantic {shipped.name}": (shipped.untrained(), example_input(HEIGHT, WIDTH))
            for shipped in NETWORKS.values()
        },
        "i_frame_interpolation LightweightVideoGenerator": (
            LightweightVideoGenerator(),
            LightweightVideoGenerator.example_input(HEIGHT, WIDTH),
        ),
        "i_frame_interpolation TemporalConsistencyEnhancer": (
            TemporalConsistencyEnhancer(),
            TemporalConsistencyEnhancer.example_input(HEIGHT, WIDTH),
        ),
    }
    print(f"tera-operations a 1080p frame; a tenth of the decoder's budget is {BUDGET}")
    for name, (network, example) in networks.items():
        counted = count_module_operations(network, example)
        print(f"{name:<52} thop {counted.thop / 1e12:.4f}   FlopCounterMode {counted.flop_counter / 1e12:.4f}")
    with GOLDEN.open("rb") as source:
        reader, agent = EvcReader(source), DecodingAgent()
        pixels = reader.header.video.width * reader.header.video.height
        for entry in reader.scenes():
            done = count_operations(partial(agent.decode_scene, reader, entry))
            if done:
                whole = per_1080p_frame(done, pixels * entry.frame_count)
                print(f"{name_of(entry.strategy):<52} its whole decoder on the golden file  {whole:.4f}")


if __name__ == "__main__":
    main()
