# The operator, and the picker of a front. `make images` builds it; by hand: docker build -f deploy/docker/operator.Dockerfile -t sponge-operator:VERSION .
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/sponge && python -m venv /opt/sbom
RUN /opt/sbom/bin/pip install cyclonedx-bom==7.5.0
WORKDIR /src
COPY . .
# Only these extras: no torch, no web server. The picker of a front is small enough to be here too.
RUN /opt/sponge/bin/pip install --constraint constraints.txt ".[front,operator]"
# What the image holds, in the form of CycloneDX.
RUN /opt/sbom/bin/cyclonedx-py environment /opt/sponge/bin/python --output-reproducible --output-file /opt/sponge/sbom.cdx.json

FROM ${BASE}
# The root file system may be read-only, and pip has already compiled the byte code.
ENV PATH=/opt/sponge/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /opt/sponge /opt/sponge
USER 65532:65532
EXPOSE 9091 9092
ENTRYPOINT ["sponge"]
CMD ["operator", "run"]
