# guest_context: how it is built, tried and measured. `make help` lists the targets.

# Targets that the scripts carry out. They are handled before anything asks for
# pg_config, because they can also be what installs the server's headers.
SCRIPTED = check quick regress isolation tap lint build-clang decode-check reader-check \
           property mutants check-long check-sanitizers check-valgrind check-matrix demo bench bench-peers help

ifneq ($(filter $(SCRIPTED),$(MAKECMDGOALS)),)

.PHONY: $(MAKECMDGOALS)
.NOTPARALLEL:
# several parts named together are one run, with one server and one closing line
PARTS = $(filter-out check-matrix demo bench bench-peers help,$(filter $(SCRIPTED),$(MAKECMDGOALS)))
ifneq ($(PARTS),)
$(firstword $(PARTS)):
	@test/run $(PARTS)
$(filter-out $(firstword $(PARTS)),$(PARTS)): $(firstword $(PARTS)) ; @:
endif
check-matrix:
	@test/matrix $(VERSIONS)
demo:
	@examples/demo.sh
bench:
	@bench/run
bench-peers:
	@MEASURES=P2 bench/run
help:
	@sed -n 's/^#: //p' $(firstword $(MAKEFILE_LIST))
# whatever else stands beside them on the command line
OTHERS = $(filter-out $(SCRIPTED),$(MAKECMDGOALS))
ifneq ($(OTHERS),)
$(OTHERS):
	@+$(MAKE) --no-print-directory $@
endif

#: make                build the extension (PGXS; PG_CONFIG=... picks the server)
#: make install        install it into that server's directories
#: make tree           private copy of the server's installation, extension included: build/pg
#: make quick          build with assertions, regression tests: under two minutes
#: make check          everything on this server: both compilers, lint, all tests, property, the demo
#: make regress        regression tests;                  TESTS="a b" picks some of test/sql
#: make isolation      isolation tests;                   TESTS="a b" picks some of test/specs
#: make tap            TAP tests;                         PROVE_TESTS="test/t/001_x.pl" picks some
#: make property       random histories against a reference merge; SEED=n SCHEMAS=n HISTORIES=n, SCHEMA=n for one
#: make mutants        the library with one rule broken at a time: the histories must tell
#: make decode-check   the payload decoder outside the server: corpus, sanitizers, random records
#: make reader-check   the reader program over a socket: mock cluster, files, faults, sanitizers
#: make lint           what the project's rules forbid, each with the accident behind it
#: make build-clang    compile everything with clang, warnings as errors
#: make installcheck   regress and isolation tests against a running server that has the extension
#: make check-matrix   the suites on other PostgreSQL versions in chroots; VERSIONS="17 18" (root)
#: make check-long   random faults while records come, 20 seeds; SEED=n RUNS=n FAULTS=n
#: make check-sanitizers the regression tests with our library under UBSan
#: make check-valgrind the regression tests with the server under valgrind (slow)
#: make demo           a throw-away server, a broker, and the worked example, in a minute; KAFKA=apache for Apache's broker
#: make bench          measures and ratios, some fifteen minutes; MEASURES="P3 P5" SCALE=0.1 ROUNDS=9
#: make bench-peers    the same against Debezium's JDBC sink, which it fetches (57 MB)
#: make clean          remove what was built
#:
#: KEEP=1 keeps a test run's directory; results of failed tests are in build/results.

else

EXTENSION    = guest_context
EXTVERSION   = 0.1.0
MODULE_big   = guest_context
OBJS         = $(patsubst %.c,%.o,$(wildcard src/*.c src/common/*.c))
DATA_built   = guest_context--$(EXTVERSION).sql
SQL_MODULES  = $(sort $(wildcard sql/[0-9]*.sql))

# For installcheck. The tests are what lies in test/: there is no list to keep.
# `setup` creates the extension, so it goes first.
REGRESS        = setup $(filter-out setup,$(sort $(basename $(notdir $(wildcard test/sql/*.sql)))))
REGRESS_OPTS   = --inputdir=test --encoding=UTF8
ISOLATION      = $(sort $(basename $(notdir $(wildcard test/specs/*.spec))))
ISOLATION_OPTS = --inputdir=test --encoding=UTF8 --load-extension=guest_context \
                 $(if $(filter 15,$(MAJORVERSION)),,--expecteddir=test)

PG_CPPFLAGS  = -I$(srcdir)/src
PG_CFLAGS    = -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
               -Wno-missing-field-initializers
# WERROR=1 makes warnings errors, ASSERT=1 compiles the server's Assert() and our
# fault points (common/fault_point.h) into our code: together they are the tested build.
ifdef WERROR
PG_CFLAGS   += -Werror
endif
ifdef ASSERT
PG_CPPFLAGS += -DUSE_ASSERT_CHECKING -DGC_FAULT_POINTS
endif
EXTRA_CLEAN  = build

PG_CONFIG   ?= pg_config
PGXS        := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifeq ($(PGXS),)
$(error $(PG_CONFIG) not found: install the server's development files, "tools/install-deps" says which, or give PG_CONFIG=/path/to/pg_config)
endif
include $(PGXS)

guest_context--$(EXTVERSION).sql: $(SQL_MODULES) Makefile
	cat $(SQL_MODULES) > $@

# Objects follow every header, and the flags they were built with.
HEADERS_ALL = $(wildcard src/*.h src/common/*.h src/reader/*.h)
BUILT_WITH  = $(CC) $(CFLAGS) $(CPPFLAGS)
$(OBJS): $(HEADERS_ALL) build/flags
build/flags: FORCE
	@mkdir -p build; echo '$(BUILT_WITH)' | cmp -s - $@ || echo '$(BUILT_WITH)' > $@
.PHONY: FORCE
FORCE:

# The reader program: a process of its own, built without anything of the server's.
# The server's processes look for it beside the library.
READER        = build/guest_context_reader
READER_SRC    = $(wildcard src/reader/*.c src/common/*.c)
READER_BASE   = -std=gnu11 -g -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers \
                $(if $(WERROR),-Werror) -D_GNU_SOURCE -DFRONTEND -DUSE_PRIVATE_ENCODING_FUNCS $(if $(ASSERT),-DUSE_ASSERT_CHECKING -DGC_FAULT_POINTS) \
                -Isrc -I$(shell $(PG_CONFIG) --includedir-server) $(shell pkg-config --cflags rdkafka 2>/dev/null) $(COPT)
READER_FLAGS  = -O2 -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE -pie -Wl,-z,relro,-z,now $(READER_BASE)
READER_LIBS   = $(shell pkg-config --libs rdkafka 2>/dev/null) -L$(shell $(PG_CONFIG) --pkglibdir) \
                -L$(shell $(PG_CONFIG) --libdir) -lpgcommon -lpgport -lm -lpthread
SANITIZE      = -O1 -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

.PHONY: librdkafka
librdkafka:
	@pkg-config --exists rdkafka || { \
	  echo "librdkafka's headers are missing: install librdkafka-dev and pkg-config (tools/install-deps does)" >&2; exit 1; }

$(READER): $(READER_SRC) $(HEADERS_ALL) build/flags | librdkafka
	@mkdir -p build
	$(CC) $(READER_FLAGS) -o $@ $(READER_SRC) $(READER_LIBS)

$(READER)_asan: $(READER_SRC) $(HEADERS_ALL) build/flags | librdkafka
	@mkdir -p build
	$(CC) $(SANITIZE) $(READER_BASE) -o $@ $(READER_SRC) $(READER_LIBS)

all: $(READER)
install: install-reader
.PHONY: install-reader
install-reader: $(READER) installdirs
	$(INSTALL_PROGRAM) $(READER) '$(DESTDIR)$(pkglibdir)/'
uninstall: uninstall-reader
.PHONY: uninstall-reader
uninstall-reader:
	rm -f '$(DESTDIR)$(pkglibdir)/guest_context_reader'

# A private copy of the server's installation with the extension in it: tests
# and demos never write to the system and need no rights there. PostgreSQL
# finds its files relative to its own programs, so a copy just works.
TREE     = build/pg
PGBIN    = $(TREE)$(shell $(PG_CONFIG) --bindir)
PGCOPY   = $(PGBIN)/.copied

.PHONY: tree
tree: all
	@sum=`cksum $$($(PG_CONFIG) --bindir)/postgres`; \
	test "`cat $(PGCOPY) 2>/dev/null`" = "$$sum" || { \
	  for d in $(shell $(PG_CONFIG) --bindir) $(shell $(PG_CONFIG) --pkglibdir) $(shell $(PG_CONFIG) --sharedir); do \
	    rm -rf $(TREE)$$d && mkdir -p $(TREE)$$d && cp -a $$d/. $(TREE)$$d/ || exit 1; \
	  done && echo "$$sum" > $(PGCOPY); }
	$(MAKE) --no-print-directory install DESTDIR='$(CURDIR)/$(TREE)' with_llvm=no >/dev/null

# The payload decoder outside the server: the reader program's build, tried over one
# corpus, then again under sanitizers with random records. The encoding functions
# have private names in the front-end library of newer versions.
DECODE_SRC   = $(wildcard src/common/*.c) test/decode/gc_decode_test.c
DECODE_FLAGS = -std=gnu11 -O2 -g -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
               -Wno-missing-field-initializers -Werror -DFRONTEND -DUSE_PRIVATE_ENCODING_FUNCS -DUSE_ASSERT_CHECKING \
               -Isrc -I$(shell $(PG_CONFIG) --includedir-server)
DECODE_LIBS  = -L$(shell $(PG_CONFIG) --pkglibdir) -L$(shell $(PG_CONFIG) --libdir) -lpgcommon -lpgport -lm
DECODE_SEED ?= 1

build/gc_decode_test: $(DECODE_SRC) $(HEADERS_ALL)
	@mkdir -p build
	$(CC) $(DECODE_FLAGS) -o $@ $(DECODE_SRC) $(DECODE_LIBS)

build/gc_decode_test_asan: $(DECODE_SRC) $(HEADERS_ALL)
	@mkdir -p build
	$(CC) $(DECODE_FLAGS) -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer \
	  -o $@ $(DECODE_SRC) $(DECODE_LIBS)

# The producer of the tests that have a real Kafka (test/lib/Kafka.pm).
build/gc_producer: test/helper/gc_producer.c
	@mkdir -p build
	$(CC) -std=gnu11 -O2 -g -Wall -Wextra -Werror -o $@ $< -lrdkafka

# What "make bench" produces with.
build/gc_pacer: bench/gc_pacer.c
	@mkdir -p build
	$(CC) -std=gnu11 -O2 -g -Wall -Wextra -Werror -o $@ $< -lrdkafka -lpthread

# The broker of "make demo".
build/mock_broker: examples/mock_broker.c
	@mkdir -p build
	$(CC) -std=gnu11 -O2 -g -Wall -Wextra -Werror -o $@ $< -lrdkafka

# What "make decode-check" runs; DECODE_SEED=N for other random records.
.PHONY: decode-run
decode-run: build/gc_decode_test build/gc_decode_test_asan
	build/gc_decode_test test/decode/corpus.txt
	build/gc_decode_test_asan test/decode/corpus.txt
	build/gc_decode_test_asan --fuzz 10 $(DECODE_SEED) test/decode/corpus.txt

# The reader program over a socket, as the server would have it: against the library's mock cluster
# and files, then frames that make no sense, to a reader built with sanitizers.
READER_TEST_SRC = $(wildcard test/reader/*.c) src/common/frame.c src/common/fault_point.c

build/gc_reader_test: $(READER_TEST_SRC) $(wildcard test/reader/*.h) $(HEADERS_ALL) build/flags | librdkafka
	@mkdir -p build
	$(CC) -O1 $(READER_BASE) -o $@ $(READER_TEST_SRC) $(READER_LIBS) -lz

# What "make reader-check" runs; GC_READER_SEED=N GC_READER_FUZZ=SECONDS for other frames.
.PHONY: reader-run
reader-run: $(READER) $(READER)_asan build/gc_reader_test
	build/gc_reader_test $(READER) $(READER)_asan

endif
