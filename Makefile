# guest_context: how it is built, tried and measured. `make help` lists the targets.

EXTENSION    = guest_context
EXTVERSION   = 0.1.0
MODULE_big   = guest_context
OBJS         = $(patsubst %.c,%.o,$(wildcard src/*.c src/common/*.c))
DATA_built   = guest_context--$(EXTVERSION).sql
SQL_MODULES  = $(sort $(wildcard sql/[0-9]*.sql))

PG_CPPFLAGS  = -I$(srcdir)/src
PG_CFLAGS    = -std=gnu11 -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare \
               -Wno-missing-field-initializers -Werror
# ASSERT=1 is the tested build: the server's Assert() is compiled into our code.
ifdef ASSERT
PG_CPPFLAGS += -DUSE_ASSERT_CHECKING
endif
EXTRA_CLEAN  = build

PG_CONFIG   ?= pg_config
PGXS        := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

guest_context--$(EXTVERSION).sql: $(SQL_MODULES) Makefile
	cat $(SQL_MODULES) > $@

HEADERS_ALL = $(wildcard src/*.h src/common/*.h)
$(OBJS): $(HEADERS_ALL)

# A private copy of the server's installation with the extension in it: tests
# and demos never write to the system and need no rights there. PostgreSQL
# finds its files relative to its own programs, so a copy just works.
TREE     = build/pg
PGBIN    = $(TREE)$(shell $(PG_CONFIG) --bindir)

.PHONY: tree
tree: all
	mkdir -p $(TREE)$(shell $(PG_CONFIG) --bindir) $(TREE)$(shell $(PG_CONFIG) --pkglibdir) $(TREE)$(shell $(PG_CONFIG) --sharedir)
	test -x $(PGBIN)/postgres || { \
	  cp -a $(shell $(PG_CONFIG) --bindir)/. $(TREE)$(shell $(PG_CONFIG) --bindir)/ && \
	  cp -a $(shell $(PG_CONFIG) --pkglibdir)/. $(TREE)$(shell $(PG_CONFIG) --pkglibdir)/ && \
	  cp -a $(shell $(PG_CONFIG) --sharedir)/. $(TREE)$(shell $(PG_CONFIG) --sharedir)/; }
	$(MAKE) install DESTDIR=$(CURDIR)/$(TREE) with_llvm=no >/dev/null
