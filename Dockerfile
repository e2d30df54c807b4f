# The pipeline with its dependencies, for CPU as it is and for CUDA with another base and index:
#
#   docker build -t pipeline .
#   docker build -t pipeline:cuda --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 .
#   docker run --rm -v "$PWD/runs:/work/runs" pipeline all recipes/film_reviews.yaml --run demo
#   docker run --rm --gpus all --shm-size 8g -v "$PWD/runs:/work/runs" pipeline:cuda ppo recipes/tldr.yaml --run tldr --nproc 8
ARG BASE=ubuntu:24.04
FROM ${BASE}
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV DEBIAN_FRONTEND=noninteractive PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
# a base's archive keeps no older versions, so that one that was pinned is soon none
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends python3 python3-venv python3-dev gcc && rm -rf /var/lib/apt/lists/*
WORKDIR /work
RUN python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml constraints.txt README.md ./
# torch first and alone: it is what differs, and what is large
RUN grep '^torch==' constraints.txt > torch.txt && pip install --no-cache-dir --index-url ${TORCH_INDEX} -r torch.txt
COPY data data
COPY policies policies
COPY reward reward
COPY pipeline pipeline
COPY recipes recipes
RUN pip install --no-cache-dir -c constraints.txt -e '.[demo]'
VOLUME /work/runs
ENTRYPOINT ["python", "-m", "pipeline"]
CMD ["--help"]
