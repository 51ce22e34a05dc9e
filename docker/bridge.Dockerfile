# syntax=docker/dockerfile:1
# fraudbridge and fraudgen.  From the top of the tree:
#	docker build -f docker/bridge.Dockerfile -t pg_fraud-bridge .
FROM debian:bookworm-slim AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# Versions are those of the distribution's release.
# hadolint ignore=DL3008
RUN apt-get update \
	&& apt-get install -y --no-install-recommends gcc libc6-dev make \
		libcurl4-openssl-dev libjansson-dev libpq-dev librdkafka-dev libssl-dev \
	&& rm -rf /var/lib/apt/lists/*
COPY extension/pg_fraud.control /src/extension/
COPY bridge /src/bridge
WORKDIR /src/bridge
RUN make PG_CONFIG=/usr/bin/pg_config \
	&& install -D -s -t /out/usr/local/bin fraudbridge fraudgen

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="fraudbridge, from Kafka into PostgreSQL" \
	org.opencontainers.image.licenses="PostgreSQL"
# hadolint ignore=DL3008
RUN apt-get update \
	&& apt-get install -y --no-install-recommends ca-certificates libcurl4 \
		libjansson4 libpq5 librdkafka1 libssl3 \
	&& rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /
ENV FRAUDBRIDGE_METRICS_HOST=0.0.0.0 FRAUDBRIDGE_METRICS_PORT=9464
EXPOSE 9464
USER 10001:10001
WORKDIR /
ENTRYPOINT ["fraudbridge"]
