# syntax=docker/dockerfile:1
# PostgreSQL with the extension pg_fraud.  From the top of the tree:
#	docker build -f docker/postgres.Dockerfile -t pg_fraud-postgres .
ARG PG_MAJOR=18

FROM postgres:${PG_MAJOR}-bookworm AS build
ARG PG_MAJOR
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
# The server's packages are those of the base image; versions of the tools are
# those of its distribution.
# hadolint ignore=DL3008
RUN apt-get update \
	&& apt-get install -y --no-install-recommends gcc libc6-dev make \
		"postgresql-server-dev-${PG_MAJOR}" \
	&& rm -rf /var/lib/apt/lists/*
COPY Makefile /src/
COPY extension /src/extension
WORKDIR /src
RUN make with_bridge=no with_llvm=no PG_CONFIG="/usr/lib/postgresql/${PG_MAJOR}/bin/pg_config" \
		DESTDIR=/out install

FROM postgres:${PG_MAJOR}-bookworm
LABEL org.opencontainers.image.title="PostgreSQL with pg_fraud" \
	org.opencontainers.image.licenses="PostgreSQL"
COPY --from=build /out/ /
COPY examples /usr/share/pg_fraud/examples
COPY docker/initdb /docker-entrypoint-initdb.d
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=12 \
	CMD ["sh", "-c", "pg_isready -q -h 127.0.0.1 -U \"${POSTGRES_USER:-postgres}\" -d \"${POSTGRES_DB:-postgres}\""]
