"""vLLM as a contestant of benchmarks/decode.py, in a Python of its own: one batch at a time over a pipe.

    PYTHON_WITH_VLLM benchmarks/vllm_worker.py MODEL_FOLDER PRECISION

The first answer says that the model is loaded. A question has `prompts` (token ids), `n` completions of each,
`new_tokens`, `stop` (token ids), `seed`. The answer has the seconds by the clock and of CPU, and the tokens. The
log-prob of every token is computed. Eager: compiling was no quicker for small models on a CPU, and takes a minute. The
engine runs in this process, which saves it the way between two on one core.
"""

import os
import sys
import time

from worker import Pipe


def main() -> None:
    """Serve batches until the pipe closes."""
    pipe = Pipe()
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    import vllm

    folder, precision = sys.argv[1:]
    engine = vllm.LLM(
        folder,
        dtype=precision,
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=1024,
        logprobs_mode="processed_logprobs",
        generation_config="vllm",
        disable_log_stats=True,
    )
    pipe.question()
    pipe.answer("ready")
    while True:
        asked = pipe.question()
        sampling = vllm.SamplingParams(
            n=asked["n"],
            temperature=1.0,
            max_tokens=asked["new_tokens"],
            logprobs=0,
            stop_token_ids=asked["stop"],
            ignore_eos=True,
            detokenize=False,
            seed=asked["seed"],
        )
        prompts = [{"prompt_token_ids": prompt} for prompt in asked["prompts"]]
        start, start_cpu = time.perf_counter(), time.process_time()
        found = engine.generate(prompts, sampling, use_tqdm=False)
        seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
        outputs = [output for request in found for output in request.outputs]
        assert all(len(output.logprobs) == len(output.token_ids) for output in outputs)
        tokens = sum(len(output.token_ids) for output in outputs)
        pipe.answer({"seconds": seconds, "cpu_seconds": cpu_seconds, "tokens": tokens})


if __name__ == "__main__":
    main()
