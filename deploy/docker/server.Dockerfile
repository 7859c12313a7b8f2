# The model server: docker build -f deploy/docker/server.Dockerfile -t sponge-server:VERSION .
# Wheels of torch without CUDA are ten times smaller; name their index with --build-arg TORCH_INDEX=URL.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/sponge
WORKDIR /src
COPY pyproject.toml constraints.txt ./
# First the layer that is large and seldom changes. Another index has versions with its own suffix: no constraints then.
RUN if [ -n "$TORCH_INDEX" ]; then /opt/sponge/bin/pip install --index-url "$TORCH_INDEX" torch torchvision; \
    else /opt/sponge/bin/pip install --constraint constraints.txt torch torchvision; fi
COPY . .
RUN if [ -n "$TORCH_INDEX" ]; then grep -viE '^(torch|torchvision|nvidia-|cuda-|triton)' constraints.txt > /tmp/constraints.txt; \
    else cp constraints.txt /tmp/constraints.txt; fi \
 && /opt/sponge/bin/pip install --constraint /tmp/constraints.txt ".[samples,server,tracing]"
# Compiles the decisions; the compilers stay in this stage.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev \
 && /opt/sponge/bin/pip install --constraint /tmp/constraints.txt mypy setuptools \
 && /opt/sponge/bin/python -m sponge_system.compile_modules \
 && /opt/sponge/bin/pip uninstall --yes mypy

FROM python:${PYTHON}
# libgomp: threads of torch.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/sponge/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    # Downloaded weights go to a folder that may be a volume.
    TORCH_HOME=/tmp/torch HOME=/tmp
COPY --from=build /opt/sponge /opt/sponge
USER 65532:65532
EXPOSE 8080 8081 9090
ENTRYPOINT ["sponge"]
CMD ["serve", "--help"]
