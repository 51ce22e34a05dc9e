# pg_fraud: the extension (PGXS) and the bridge (bridge/Makefile).
#
#	make                  build both
#	make install          extension into the server, programs into its bindir
#	make installcheck     regression tests against a running server
#	make demo             the main job on a live stream, private servers
#	make test             every test, private servers
#	make bench            ratios measured side by side

# These come before anything that needs pg_config: they install what is missing
# and work in private copies of the tree and the server (bridge/parts/private).
ifneq ($(filter demo test bench,$(MAKECMDGOALS)),)

demo:
	@KEEP='$(KEEP)' bridge/parts/private -p kafka -p postgrest -p bigquery \
		bridge/demo/run
test:
	@bridge/parts/private -w -p kafka -p postgrest -p bigquery \
		-p google -p postgres -p browser -p webhooks -p clients -p debezium \
		bridge/t/run $(T)
bench:
	@bridge/parts/private -p kafka -p postgrest -p bigquery -p google \
		-p clients -p debezium -p flamegraph -o '$(or $(BENCH_OUT),bridge/bench/results)' bridge/bench/run $(ONLY)

.PHONY: demo test bench

else

EXTENSION = extension/pg_fraud
EXTVERSION = $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" extension/pg_fraud.control)
MODULE_big = pg_fraud
OBJS = $(patsubst %.c,%.o,$(sort $(wildcard extension/*.c)))
PG_CPPFLAGS = -DPG_FRAUD_VERSION='"$(EXTVERSION)"'
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
	-Wno-missing-field-initializers $(CFLAGS_EXTRA)

# The extension's SQL, one file per noun, joined in this order.
SQL_PARTS = $(addprefix extension/sql/, \
	header.sql role.sql watch.sql name.sql rule.sql proposal.sql brake.sql \
	counter.sql ddl.sql failure.sql ledger.sql ask.sql backtest.sql compare.sql helper.sql \
	list.sql lock.sql source.sql position.sql dead_letter.sql sink.sql \
	sink_option.sql sink_bridge.sql sink_view.sql bridge.sql branch.sql prune.sql \
	api.sql page_parts.sql page.sql privilege.sql footer.sql)
DATA_built = extension/pg_fraud--$(EXTVERSION).sql
DATA = $(wildcard extension/pg_fraud--*--*.sql)

TESTS = $(sort $(wildcard sql/*.sql))
REGRESS = $(patsubst sql/%.sql,%,$(TESTS))
REGRESS_OPTS = --load-extension=pg_fraud
ISOLATION = $(patsubst specs/%.spec,%,$(sort $(wildcard specs/*.spec)))
ISOLATION_OPTS = --load-extension=pg_fraud
USE_MODULE_DB = 1

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(DATA_built): $(SQL_PARTS) Makefile
	cat $(SQL_PARTS) > $@

# The alerts page's document, style and script, each a function that returns it.
PAGE_PARTS = $(addprefix extension/page/page., html css js)
extension/sql/page_parts.sql: $(PAGE_PARTS) Makefile
	for part in html css js; do \
		printf 'CREATE FUNCTION fraud.page_%s() RETURNS text\nLANGUAGE sql IMMUTABLE PARALLEL SAFE\nSET search_path = pg_catalog, pg_temp AS $$body$$ SELECT $$page$$' $$part && \
		cat extension/page/page.$$part && \
		printf '$$page$$ $$body$$;\n\n' || exit 1; \
	done > $@

$(OBJS): $(wildcard extension/*.h)

# with_bridge=no leaves the programs out: the extension alone.
ifneq ($(with_bridge),no)
all: bridge
install: install-bridge
uninstall: uninstall-bridge
endif

bridge:
	$(MAKE) -C bridge PG_CONFIG='$(PG_CONFIG)'

install-bridge: bridge
	$(MAKE) -C bridge install PG_CONFIG='$(PG_CONFIG)' \
		DESTDIR='$(DESTDIR)' bindir='$(bindir)'

uninstall-bridge:
	rm -f '$(DESTDIR)$(bindir)/fraudbridge' '$(DESTDIR)$(bindir)/fraudgen'

clean: clean-bridge
clean-bridge:
	$(MAKE) -C bridge clean PG_CONFIG='$(PG_CONFIG)'
	rm -f $(DATA_built) extension/sql/page_parts.sql

.PHONY: bridge install-bridge uninstall-bridge clean-bridge

endif
