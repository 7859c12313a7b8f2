# The model server. `make images` builds it; by hand: docker build -f deploy/docker/server.Dockerfile -t sponge-server:VERSION .
# Wheels of torch without CUDA are ten times smaller; name their index with --build-arg TORCH_INDEX=URL, as `make images` does.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ARG TORCH_INDEX=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/torch && python -m venv /opt/sponge && python -m venv /opt/sbom
WORKDIR /src
COPY constraints.txt ./
# PyTorch is large and seldom changes. It has a folder of its own and with it a layer, so that a new version of Sponge is a
# small download. Another index has versions with its own suffix: no constraints then.
RUN if [ -n "$TORCH_INDEX" ]; then /opt/torch/bin/pip install --index-url "$TORCH_INDEX" torch torchvision; \
    else /opt/torch/bin/pip install --constraint constraints.txt torch torchvision; fi
RUN packages="import sysconfig; print(sysconfig.get_path('purelib'))" \
 && /opt/torch/bin/python -c "$packages" > "$(/opt/sponge/bin/python -c "$packages")/torch.pth"
RUN /opt/sbom/bin/pip install cyclonedx-bom==7.5.0
# Compilers for the decisions; they stay in this stage.
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev
COPY . .
RUN if [ -n "$TORCH_INDEX" ]; then grep -viE '^(torch|torchvision|nvidia-|cuda-|triton)' constraints.txt > /tmp/constraints.txt; \
    else cp constraints.txt /tmp/constraints.txt; fi \
 && /opt/sponge/bin/pip install --constraint /tmp/constraints.txt ".[fetch,hf,onnx,openvino,samples,server,sklearn,tracing]"
RUN /opt/sponge/bin/pip install --constraint /tmp/constraints.txt mypy setuptools \
 && /opt/sponge/bin/python -m sponge_system.compile_modules \
 && /opt/sponge/bin/pip uninstall --yes mypy
# The model of the example, so that its pods need not train it.
RUN XDG_CACHE_HOME=/opt/sponge/cache /opt/sponge/bin/python -c "from sponge_server.models.digits import cached; print(cached())"
# What the image holds, in the form of CycloneDX.
RUN /opt/sbom/bin/cyclonedx-py environment /opt/sponge/bin/python --output-reproducible --output-file /opt/sponge/sbom.cdx.json

FROM ${BASE}
# libgomp: threads of torch.
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
# The root file system may be read-only. Downloaded weights go to a folder that may be a volume. Any user may run it, and some
# libraries ask for a name.
ENV PATH=/opt/sponge/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/opt/sponge/cache TORCH_HOME=/tmp/torch HOME=/tmp LOGNAME=sponge
COPY --from=build /opt/torch /opt/torch
COPY --from=build /opt/sponge /opt/sponge
USER 65532:65532
EXPOSE 8080 8081 9090
ENTRYPOINT ["sponge"]
CMD ["serve", "--help"]
