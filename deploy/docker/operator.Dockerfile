# The operator: docker build -f deploy/docker/operator.Dockerfile -t sponge-operator:VERSION .
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/sponge
WORKDIR /src
COPY . .
# Only the operator's extra: no torch, no web server.
RUN /opt/sponge/bin/pip install --constraint constraints.txt ".[operator]"

FROM python:${PYTHON}
# The root file system is read-only, and pip has already compiled the byte code.
ENV PATH=/opt/sponge/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /opt/sponge /opt/sponge
USER 65532:65532
EXPOSE 9091 9092
ENTRYPOINT ["sponge"]
CMD ["operator", "run"]
