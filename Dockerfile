# One image for the six services, the auditor and the three jobs; compose.yaml says which file a container runs.
# The tag is the usual name of the Bun this repository is tested with; a deployment should pin its digest as well.
FROM oven/bun:1.4.5-slim AS app
WORKDIR /app
COPY package.json bun.lock ./
COPY outbox/package.json outbox/
RUN bun install --frozen-lockfile --production --ignore-scripts
COPY tsconfig.json ./
COPY outbox outbox
COPY connectors connectors
COPY services services
# A checkout made under a strict umask must still be readable for `bun`.
RUN chmod -R a+rX .

FROM oven/bun:1.4.5-slim
WORKDIR /app
# The root is read-only at run time, so Bun must not try to keep transpiled files.
# The last tier of its compilers costs more CPU than its code saves.
ENV NODE_ENV=production BUN_RUNTIME_TRANSPILER_CACHE_PATH=0 BUN_JSC_useFTLJIT=0
# Stays root's: the process can't change its own code.
COPY --from=app /app .
USER bun
