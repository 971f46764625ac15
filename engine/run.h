/* SPDX-License-Identifier: GPL-3.0-or-later
 * run.h: a run directory and the stages that work on it: load -> calibrate -> measure -> search -> finalise -> evaluate -> export -> report.
 *
 * Every stage is resumable and idempotent: what is finished is found on disk (run.db, database/, models/) and not done again, so the same
 * command after an interruption goes on and ends with the same bytes. A stage alone reopens the run from config.resolved.yaml.
 */
#ifndef BB_ENGINE_RUN_H
#define BB_ENGINE_RUN_H

#include "base/crew.h"
#include "base/csv.h"
#include "base/file.h"
#include "base/options.h"
#include "base/store.h"
#include "engine/model_space.h"
#include "eval/evaluator.h"
#include "eval/sensitivity.h"
#include "model/compress/database.h"
#include "model/compress/rebuild.h"

typedef struct bb_run_config {
    char    *model, *out, *config;
    uint64_t target_size;
    double   target_bpw;
    int64_t  points;
    double   min_bpw, max_bpw;
    char    *sizes;
    char    *calib, *eval, *protocol;
    int64_t  ctx, calib_windows, measure_windows, refine_windows, confirm_windows, eval_windows, probes;
    double   exact_from; /* nats: options alone that do less by their sketch are not run through the head; 0: all are */
    char    *effort;     /* named defaults (engine/effort.h) */
    double   time;       /* seconds that the run may take; 0: no limit (engine/time_budget.h) */
    uint32_t free;       /* no option: those that the time may choose, as engine/effort.h counts them */
    char    *formats, *embd_formats, *prune, *width_order;
    bool     experimental; /* formats that stock llama.cpp does not read */
    int64_t  screen;       /* formats of the default lists that are tried for a matrix; 0: all */
    int64_t  ffn_divisor;
    char    *method;
    double   damping;
    int64_t  sweeps;
    int64_t  output_windows; /* of the moments by which rows of a rebuilt matrix answer for each other (engine/coupling.h); 0: none */
    char    *foresee;        /* by what of a loss plans are chosen (engine/foresee.h): "rebuild", "none" */
    char    *sketch;         /* local scores in the search: "signed", "none" */
    char    *search;         /* method of the search (search/method.h) */
    double   search_tokens;  /* millions of forwarded tokens for the search */
    int64_t  settle;         /* plans of a size that may be rebuilt at the end of the search (engine/settle.h) */
    int64_t  workers;        /* evaluators that score plans at the same time */
    int64_t  seed;
    char    *precision; /* of products: "exact", "fast" */
    bool     parse_special, no_finalise, ledger_only, json;
    char    *finish; /* "all", "contenders": no simple plan that is ruled out (engine/front.h) */
    char    *finalise_steps, *leave_out;
    int64_t  tune_windows;
    double   tune_tokens; /* millions, a plan */
    double   qat_tokens;  /* the same of the step qat (engine/qat.h) */
    char    *qat_text, *qat_loss, *qat_estimator, *qat_schedule;
    double   qat_rate, qat_scale_rate;
    int64_t  qat_batch;
    uint64_t max_ram;
    char    *keep;      /* "all", "plans", "file" (engine/clean.h) */
    char    *database;  /* folder of the option database; empty: OUT/database */
    char    *profile;   /* runtime profile (engine/speed.h); empty: none */
    double   min_speed; /* decoded tokens a second that a plan must reach by the profile; 0: no bound */
} bb_run_config;

enum { BB_RUN_N_OPTIONS = 63 };
extern const bb_option_row bb_run_options[BB_RUN_N_OPTIONS];

/* The levels of the search; behind them the windows of `measure` once more, with nearly all their positions scored: where options are measured. */
enum { BB_LEVEL_MEASURE, BB_LEVEL_REFINE, BB_LEVEL_CONFIRM, BB_N_LEVELS, BB_LEVEL_SKETCH = BB_N_LEVELS, BB_N_WINDOW_SETS };

/* The rows of engine/stages.h: the first BB_N_STAGES make a run, and time is told of them (timing.csv). */
typedef enum bb_stage {
    BB_STAGE_CALIBRATE,
    BB_STAGE_BUILD,
    BB_STAGE_MEASURE,
    BB_STAGE_SEARCH,
    BB_STAGE_FINALISE,
    BB_STAGE_EVALUATE,
    BB_N_STAGES,
    BB_STAGE_VERIFY = BB_N_STAGES,
    BB_N_STAGE_ROWS,
    BB_STAGE_NONE = BB_N_STAGE_ROWS
} bb_stage;

/* Since a stage began: wall clock and processor time; and what earlier stages, and earlier sessions of the run, have taken. */
typedef struct bb_clock {
    bb_stage stage;
    bool     runs;
    double   wall, cpu, seconds[BB_N_STAGES], cpu_seconds[BB_N_STAGES], peak_bytes[BB_N_STAGES]; /* the last: resident at most */
} bb_clock;

/* Of a run with --time (engine/time_budget.h). */
typedef struct bb_time_budget {
    bool   on;            /* all stages are run, within config.time */
    double started_s;     /* bb_now_s(), less what earlier sessions took */
    double slower;        /* than processor time shared by the threads says: by other work and by what one thread does alone */
    double search_tokens; /* that a search which was stopped had spent */
    bool   may_cut;       /* the first plan is being finalised: its steps may be cut short */
    char   key[65];       /* of the request: what was given by hand, and how long */
    char  *chosen;        /* "name=value" lines, to be kept when the directory is open; owned */
    double evaluation_s;  /* that the evaluation will need */
} bb_time_budget;

typedef struct bb_run {
    bb_run_config     config;
    bool              is_sweep;
    const bb_backend *backend; /* where the model and what is made of it run */
    bb_model          model;
    uint64_t          n_weights;
    bb_lock           lock; /* of the directory */
    bb_store         *store;
    bb_model_space   *space;
    int64_t          *budgets; /* ascending, file bytes */
    size_t            n_budgets;
    bb_tokens         calib_tokens;
    bb_windows        calib;                    /* for second moments */
    bb_windows        tune;                     /* for training: those of `calib` and more */
    bb_windows        levels[BB_N_WINDOW_SETS]; /* for scoring: never the windows of `calib` and `tune` */
    bb_database      *database;
    bb_net_evaluator *evaluator;
    bb_full_states    full_states;    /* of `calib`, for all plans that are rebuilt, until the files are evaluated */
    uint64_t          worker_room;    /* of the memory for caches: of each of --workers but the first, left to it by `evaluator` */
    uint64_t          others_room;    /* of the same: of all who work at the same time */
    uint64_t          kept_room;      /* of the same: what a command keeps beside the evaluator and what plans are finished with (bb_memory_keep_half) */
    bool              holds_memory;   /* the process keeps to its --max-ram */
    bool              more_pairs;     /* methods beside --search need inner products of all pairs of options, */
    bool              more_learned;   /* learned masks (bb_memory_count_method) */
    bool              untrained_said; /* that a step which trains all matrices has no room (bb_memory_warn_of_training) */
    bool              options_built;  /* every option of the space is in the database */
    bb_sensitivity    sensitivity;    /* what each does alone, from BB_STAGE_MEASURE to the end of the search */
    bb_clock          clock;
    bb_time_budget    time;
    const bb_crew    *crew;            /* who does the jobs of the stages (engine/ranks.h); borrowed; NULL: this process alone */
    char              key[65];         /* identity of model, data and every setting that changes a score; see engine/keys.h, as the next two */
    char              search_key[65];  /* ... and of everything that decides which plans are chosen */
    char              options_key[65]; /* ... and of everything else that the files of the directory are made from */
} bb_run;

/* Creates (or goes on with) the run directory: checks the budget first (BB_INFEASIBLE in well under a second), writes config.resolved.yaml and
 * env.json. Takes over config. */
bb_status bb_run_create(bb_run *r, bb_run_config *config, bool is_sweep, bb_err *err);
bb_status bb_run_reopen(bb_run *r, const char *dir, bb_err *err);
void      bb_run_close(bb_run *r);

/* Only model, space and budgets: nothing is written or run. For `estimate`. */
bb_status bb_run_preview(bb_run *r, bb_run_config *config, bool is_sweep, bb_err *err);

/* What the stages do: bb_stage_run (engine/stages.h) runs them, with those that they need before them. */
bb_status bb_run_calibrate(bb_run *r, bb_err *err); /* also for who needs database and evaluator alone: done at once when they are open */
bb_status bb_run_database(bb_run *r, bb_err *err);  /* the same for who needs no evaluator, which has all that --max-ram leaves for caches */
/* The diagonals of the second moments as an importance matrix (model/io/imatrix.h); the run is calibrated. */
bb_status bb_run_imatrix(bb_run *r, const char *path, bb_err *err);
bb_status bb_run_build_options(bb_run *r, bb_err *err);
bb_status bb_run_measure(bb_run *r, bb_err *err);
bb_status bb_run_search(bb_run *r, bb_err *err);
bb_status bb_run_finalise(bb_run *r, bb_err *err);
bb_status bb_run_evaluate(bb_run *r, bb_err *err);
void      bb_run_forget_measured(bb_sensitivity *s); /* with its changes, which it then owns; it is large */
/* The costs of the space as bb_run_measure left them in sensitivity.csv, for stages that need no more of it. */
bb_status bb_run_load_costs(bb_run *r, bb_err *err);

/* The windows of --eval (bb_windows_done), or without it the confirm windows (borrowed), and the hash of their text. */
bb_status bb_run_eval_windows(bb_run *r, bb_windows *w, char data_hash[65], bb_err *err);

/* Scores a plan with the option database's matrices as they are, on w, the windows of the reference; kept in run.db. only: BB_NOT_FOUND instead of
 * evaluating. window_kl: [w->n]. */
struct bb_reference;
bb_status bb_run_eval_database(bb_run *r, const bb_plan *plan, struct bb_reference *reference, const bb_windows *w, bool only, bb_result *out,
                               double *window_kl, bb_err *err);

/* The same of models/HASH.gguf, which is there. */
bb_status bb_run_eval_file(bb_run *r, const char *hash, struct bb_reference *reference, const bb_windows *w, bool only, bb_result *out, double *window_kl,
                           bb_err *err);

/* What a search has cost, in all sessions together (run.db, table "search"). tokens: forwarded for scoring plans, prefixes counted
 * as if nothing were cached; measure_tokens: for measuring each option alone, from its block on. */
typedef struct bb_search_cost {
    double tokens, measure_tokens, seconds, n_sizes;
} bb_search_cost;

/* Writes plan `hash` of the run to path as GGUF (finalising it if that was not done), and, recipe not NULL, the tensor types as a
 * `llama-quantize --tensor-type-file`. BB_USAGE, and nothing is written: a recipe of a pruned plan. */
bb_status bb_run_export(bb_run *r, const char *hash, const char *path, const char *recipe, bb_err *err);
/* The finalised file of the plan whose hash begins with prefix, made if that was not done; *path: bb_free. */
bb_status bb_run_finalise_one(bb_run *r, const char *prefix, char hash[17], char **path, bb_err *err);
/* Reads every exported file back: hash, bytes, plan, and the KL on the confirm windows must be those recorded, bit for bit; every number of the
 * tables made from them is recomputed and compared (BB_GUARD). */
bb_status bb_run_verify(bb_run *r, bb_err *err);
/* The second half: evaluates every file again and holds front.csv, baselines.csv, layers.csv, guard.json, plan.json and model.gguf against the
 * result. *cells: how many cells of tables were equal. */
bb_status bb_run_check_tables(bb_run *r, uint64_t *cells, bb_err *err);
/* What rebuilds may keep of full precision, within what --max-ram leaves beside the evaluator's caches. The run is calibrated. */
bb_full_states *bb_run_full_states(bb_run *r);
/* What the caches of r->evaluator leave of their memory, and nobody has who works at the same time. */
uint64_t bb_run_unused_memory(const bb_run *r);
/* r->evaluator, made when it is not there; bb_run_calibrate does it too. */
bb_status bb_run_evaluator(bb_run *r, bb_err *err);

/* From now on time counts for this stage; BB_N_STAGES and above: for none. */
void bb_run_clock(bb_run *r, bb_stage stage);

/* OUT/name; bb_free. */
char *bb_run_path(const bb_run *r, bb_err *err, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Begins the table OUT/name; bb_csv_close or bb_csv_discard. */
bb_status bb_run_table(const bb_run *r, const char *name, const char *header, bb_csv_writer **w, bb_err *err);
/* The same, or, elsewhere not empty, the table at that path, of which the run keeps no books. */
bb_status bb_run_table_at(const bb_run *r, const char *elsewhere, const char *name, const char *header, bb_csv_writer **w, bb_err *err);

#endif
