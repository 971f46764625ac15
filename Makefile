# SPDX-License-Identifier: GPL-3.0-or-later
# bitbudget: one static library a folder, one binary. `make help` lists the targets.
SHELL    := /bin/bash
CC       ?= cc
BUILD    ?= build
PREFIX   ?= /usr/local
DATA     ?= ../shared/data

WARN     := -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wdouble-promotion -Wstrict-prototypes \
            -Wmissing-prototypes -Wcast-qual -Wwrite-strings -Wundef -Wvla
ifeq ($(CI),true)
WERROR   ?= -Werror
endif
# -ffp-contract=off: the compiler must not fuse a*b+c on its own, or decoders differ between CPU levels.
CFLAGS   ?= -O3 -g
BBFLAGS  := -std=c11 -D_DEFAULT_SOURCE -D_POSIX_C_SOURCE=200809L -I. -Iinclude -fopenmp -ffp-contract=off \
            -fno-math-errno -MMD -MP $(WARN) $(WERROR) $(SANITIZE)
# `deps` is done here, while the makefile is read: whatever other goals stand beside it, in any order and under -j, begin after it, and
# pkg-config below already sees what it installed.
ifneq ($(filter deps,$(MAKECMDGOALS)),)
$(shell sh tests/deps.sh >&2)
ifneq ($(.SHELLSTATUS),0)
$(error deps: installing what is missing failed)
endif
endif
PKGS     := gsl openblas lapacke jansson yaml-0.1 sqlite3 libpcre2-8
PKGCF    := $(shell pkg-config --cflags $(PKGS) 2>/dev/null || echo missing)
# GSL without its own CBLAS, which would shadow OpenBLAS's.
PKGLIBS  := $(filter-out -lgslcblas,$(shell pkg-config --libs $(PKGS) 2>/dev/null)) -lcsv -lm -lpthread
CHECKLIBS := $(shell pkg-config --libs check 2>/dev/null)
HAVE_LIBS = $(if $(filter missing,$(PKGCF)),$(error pkg-config does not find all of: $(PKGS). `make deps` installs them))

DIRS     := base kernels model eval search cli
src       = $(sort $(wildcard $(1)/*.c $(1)/*/*.c))
obj       = $(patsubst %.c,$(BUILD)/%.o,$(filter-out cli/main.c,$(call src,$(1))))
LIBS     := $(foreach d,cli eval model kernels search base,$(BUILD)/lib$(d).a)
TESTS    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/test_*.c)))
SUPPORT  := $(patsubst %.c,$(BUILD)/%.o,$(filter-out tests/support/cli.c,$(sort $(wildcard tests/support/*.c))))

.PHONY: all deps demo check check-asan check-valgrind bench lint fuzz install uninstall reproduce reproduce-quantize reproduce-study reproduce-search reproduce-finalise interop clean help FORCE
all: bitbudget

help:
	@echo "deps all demo check check-asan bench lint fuzz interop reproduce reproduce-quantize reproduce-study reproduce-search reproduce-finalise install uninstall clean"

$(BUILD)/%.o: %.c
	@$(HAVE_LIBS)mkdir -p $(@D)
	@echo "  CC   $@"; $(CC) $(CFLAGS) $(BBFLAGS) $(ISA_$(basename $(notdir $<))) $(PKGCF) -c $< -o $@

# Only these files may use instruction sets above the baseline; kernels.c dispatches at run time.
ISA_kernels_avx2   := -mavx2 -mfma -mf16c
ISA_lanes_avx2     := -mavx2
ISA_codebook_rows_avx2 := -mavx2
ISA_columns_avx2   := -mavx2
ISA_columns_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
ISA_codebook_rows_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
ISA_kernels_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c

define library
$(BUILD)/lib$(1).a: $(call obj,$(1))
	@rm -f $$@; mkdir -p $$(@D); ar rcs $$@ $$^
endef
$(foreach d,$(DIRS),$(eval $(call library,$(d))))

# The link in the root is the ordinary build's; those of sanitizers and other compilers stay in their folders.
bitbudget: $(BUILD)/bitbudget
	@[ "$(BUILD)" != build ] || ln -sfn $(BUILD)/bitbudget bitbudget

$(BUILD)/bitbudget: $(BUILD)/cli/main.o $(LIBS)
	@echo "  LINK $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< -Wl,--start-group $(LIBS) -Wl,--end-group $(PKGLIBS)

# The commit goes into one generated header, which is touched only when it changes.
VERSION  := $(BUILD)/generated/version_commit.h
$(VERSION): FORCE
	@mkdir -p $(@D); echo "#define BB_COMMIT \"$$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)\"" > $@.new; \
	  cmp -s $@.new $@ && rm $@.new || mv $@.new $@
$(BUILD)/cli/version.o: $(VERSION)
$(BUILD)/cli/version.o: BBFLAGS += -I$(BUILD)/generated
FORCE:

# Tests of the libraries do not link cli, which changes with every commit; those named test_cli_* do, without main().
# (Make takes the pattern rule with the shortest stem.)
TEST_LIBS := $(filter-out $(BUILD)/libcli.a,$(LIBS))
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(SUPPORT) $(TEST_LIBS)
	@echo "  LINK $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< $(SUPPORT) -Wl,--start-group $(TEST_LIBS) -Wl,--end-group $(CHECKLIBS) $(PKGLIBS)

$(BUILD)/tests/test_cli_%: $(BUILD)/tests/test_cli_%.o $(BUILD)/tests/support/cli.o $(SUPPORT) $(LIBS)
	@echo "  LINK $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< $(BUILD)/tests/support/cli.o $(SUPPORT) -Wl,--start-group $(LIBS) -Wl,--end-group $(CHECKLIBS) $(PKGLIBS)

# search/ may use base and GSL alone: this link line fails when it reaches for anything else.
$(BUILD)/tests/test_search%: $(BUILD)/tests/test_search%.o $(BUILD)/libsearch.a $(BUILD)/libbase.a
	@echo "  LINK $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< $(BUILD)/libsearch.a $(BUILD)/libbase.a $(CHECKLIBS) $(PKGLIBS)

# A fuzz target with our own driver (tests/fuzz/driver.c).
$(BUILD)/tests/fuzz/%: $(BUILD)/tests/fuzz/%.o $(BUILD)/tests/fuzz/driver.o $(SUPPORT) $(filter-out $(BUILD)/libcli.a,$(LIBS))
	@echo "  CC   $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< $(BUILD)/tests/fuzz/driver.o $(SUPPORT) -Wl,--start-group $(filter-out $(BUILD)/libcli.a,$(LIBS)) \
	  -Wl,--end-group $(CHECKLIBS) $(PKGLIBS)

.SECONDARY:

deps:
	@:

check: $(BUILD)/bitbudget $(TESTS)
	@BB_BUILD=$(BUILD) sh tests/run.sh $(TESTS)

# Our exports loaded by llama.cpp itself (npm's prebuilt one, fetched into build/interop; needs node and npm).
$(BUILD)/tests/interop/%: $(BUILD)/tests/interop/%.o $(SUPPORT) $(TEST_LIBS)
	@echo "  LINK $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< $(SUPPORT) -Wl,--start-group $(TEST_LIBS) -Wl,--end-group $(CHECKLIBS) $(PKGLIBS)
interop: $(BUILD)/tests/interop/interop
	@sh tests/interop/run.sh $< $(DATA) $(BUILD)/interop

# The whole job on the model that ships with the project; calibration text is sampled from the model itself.
demo: all
	@./bitbudget sweep configs/demo/wiki8m-f16.gguf --config configs/demo/demo.yaml --out results/runs/demo

# The committed fronts of results/, from the shared data. $(call front,MODEL,CORPUS/CALIB,CORPUS/EVAL,FOLDER)
RUNS     ?= results/runs
define front
	./bitbudget sweep $(DATA)/models/$(1)/$(1)-f16.gguf --config configs/reproduce/$(1).yaml --out $(RUNS)/$(1) \
	  --calib $(DATA)/corpora/$(2) --eval $(DATA)/corpora/$(3)
	mkdir -p $(4); cd $(RUNS)/$(1) && cp front.csv baselines.csv layers.csv sensitivity.csv plots/front.svg $(CURDIR)/$(4) && cp finalise.csv $(CURDIR)/$(4)/steps.csv
	sh results/compare.sh $(4)/front.csv $(DATA)/baselines/$(1)-llamacpp.csv > $(4)/llamacpp.csv
endef
reproduce: all
	$(call front,wiki8m,wikitext-2-raw/wiki.valid.raw,wikitext-2-raw/wiki.test.raw,results)
	$(call front,stories3M-p256,tinystories/tinystories_train.txt,tinystories/tinystories_valid_a.clean.txt,results/stories3M-p256)

# On one search of wiki8m in five bands: how well the cheap scores rank plans, and every step of finalise on two texts. On another one at 24
# sizes: other search methods at ten of them. All of them resume.
WIKI8M   = $(DATA)/models/wiki8m/wiki8m-f16.gguf
WIKITEXT = --calib $(DATA)/corpora/wikitext-2-raw/wiki.valid.raw --eval $(DATA)/corpora/wikitext-2-raw/wiki.test.raw
BANDS    = ./bitbudget sweep $(WIKI8M) --config configs/reproduce/study.yaml $(WIKITEXT) --out $(RUNS)/study
reproduce-study: all
	$(BANDS)
	./bitbudget study $(RUNS)/study --plans 200 --level confirm
	cp $(RUNS)/study/proxy.csv $(RUNS)/study/plots/proxy.svg results/
reproduce-finalise: all
	$(BANDS)
	./bitbudget finalise $(RUNS)/study --ladder 1.3,1.7,2.2,3.0,4.0 --windows 100 --ablate \
	  --texts $(DATA)/corpora/wikitext-2-raw/wiki.test.raw,$(DATA)/corpora/c4-sample/c4_train00000_docs0-699.jsonl
	cd $(RUNS)/study && cp ladder.csv $(CURDIR)/results/finalise.csv && cp generation.csv lfq.csv $(CURDIR)/results/
reproduce-search: all
	./bitbudget sweep $(WIKI8M) --config configs/reproduce/search.yaml $(WIKITEXT) --out $(RUNS)/search
	./bitbudget rivals $(RUNS)/search --methods ours,uniform,separable,evopress --times 20 --out results/search.csv \
	  --sizes 1101657,1312698,1475403,1758043,1975947,2354474,2646304,3153250,3544086,4223018
	gnuplot results/search.gp

# The tables of single formats, pruning and rotation; what is finished stays in $(RUNS).
reproduce-quantize: all
	mkdir -p $(RUNS)
	sh results/pruning.sh $(DATA) $(RUNS)/pruning > $(RUNS)/pruning.csv && cp $(RUNS)/pruning.csv results/
	sh results/rotation.sh $(DATA) $(RUNS)/rotation > $(RUNS)/rotation.csv && cp $(RUNS)/rotation.csv results/
	sh results/database.sh $(DATA) $(RUNS)/database > $(RUNS)/database.csv && cp $(RUNS)/database.csv results/

# FUZZ_RUNS mutated inputs for each parser, under sanitizers; a crash leaves its input in fuzz-crash.bin.
FUZZ_RUNS ?= 20000
fuzz:
	@$(MAKE) --no-print-directory $(SANITIZED) fuzz-run FUZZ_RUNS=$(FUZZ_RUNS)
.PHONY: fuzz-run
fuzz-run: $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/fuzz/fuzz_*.c))
	@for f in $^; do echo "$$f"; ASAN_OPTIONS=abort_on_error=1 UBSAN_OPTIONS=abort_on_error=1:print_stacktrace=1 $$f $(FUZZ_RUNS) || exit 1; done

# The same tests, in a folder of their own, under AddressSanitizer and UndefinedBehaviorSanitizer. gcc's conversion warnings are wrong
# about code that the sanitizer has rewritten, so only the main ones stay on.
SANITIZED := BUILD=build-asan CFLAGS="-O1 -g -fno-omit-frame-pointer" WARN="-Wall -Wextra" \
             SANITIZE="-fsanitize=address,undefined -fno-sanitize-recover=all"
check-asan:
	@$(MAKE) --no-print-directory check $(SANITIZED)

# Every benchmark, one after the other, as CSV; each says how it is used on its own.
bench: $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/bench/bench_*.c)))
	@for b in $^; do echo "# $$b"; OPENBLAS_NUM_THREADS=1 $$b || exit 1; done

lint:
	@sh tests/lint/lint.sh $(CC) -std=c11 -D_DEFAULT_SOURCE -D_POSIX_C_SOURCE=200809L -I. -fopenmp $(WARN) -Werror $(PKGCF)

BINDIR   ?= $(PREFIX)/bin
MANDIR   ?= $(PREFIX)/share/man/man1
install: all
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)
	install -m 755 $(BUILD)/bitbudget $(DESTDIR)$(BINDIR)/bitbudget
	$(BUILD)/bitbudget help --man > $(BUILD)/bitbudget.1
	install -m 644 $(BUILD)/bitbudget.1 $(DESTDIR)$(MANDIR)/bitbudget.1

uninstall:
	rm -f $(DESTDIR)$(BINDIR)/bitbudget $(DESTDIR)$(MANDIR)/bitbudget.1

clean:
	rm -rf build build-asan build-clang bitbudget

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
