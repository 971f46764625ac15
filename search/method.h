/* SPDX-License-Identifier: GPL-3.0-or-later
 * method.h: what a search is given, and every method of searching as a row of one table.
 *
 * A method is a row {name, reference, run(context)}. It asks the ledger for scores, ends by the context's stop rule, and leaves in the context's
 * archive what it scored at the top level: bb_archive_best(archive, budget) is its answer for a budget. `run` and `sweep` choose one by --search
 * NAME, `rivals` compares them by --methods. Rows marked simple need no search: they also give the plan of one size at once, and are what the
 * plans of a search are guarded by (guard.h).
 *
 * To add one: search/methods/NAME.c (or search/algs/NAME.c for an ask/tell algorithm, which needs no loop of its own) with a
 * const bb_search_method bb_method_NAME, paper and differences in its header, and its name in BB_METHOD_LIST. The tests of tests/test_search_algs.c then
 * run it on every known problem, where it must beat random.
 *
 * Every method is deterministic: with the same context and scores it asks the same questions, so a search that was killed goes on by starting
 * again with the same store. It draws from streams of `seed` (base/rng.h) whose names begin with its own.
 */
#ifndef BB_SEARCH_METHOD_H
#define BB_SEARCH_METHOD_H

#include "search/archive.h"
#include "search/ledger.h"
#include "search/quadratic.h"
#include "search/separable.h"
#include "search/space.h"

/* ---- the context ---- */

typedef struct bb_stop_rule {
    double   max_tokens;      /* asked of the ledger since it was opened, and elsewhere (bb_search_spent); what a method does at its end, such as final
                                 scores, is included where it can plan it, else on top; 0: no limit */
    uint64_t max_evaluations; /* distinct (plan, level) asked of the ledger since it was opened; 0: no limit */
    uint32_t max_rounds;      /* of methods that work in rounds; 0: the method's own */
    uint32_t patience;        /* rounds in a row in which a budget gains too little (ask/tell: candidates without a new one); 0: the method's own */
} bb_stop_rule;

typedef enum bb_stop_reason { BB_STOP_DONE, BB_STOP_TOKENS, BB_STOP_EVALUATIONS, BB_STOP_ROUNDS, BB_STOP_STALL } bb_stop_reason;

/* Where a search stands at one budget. */
typedef struct bb_search_step {
    const char *stage;        /* "seeds", "round", "final", ... */
    uint32_t    round;        /* or how often was asked; 0: before the first */
    size_t      budget_index; /* into budgets */
    int64_t     size_bytes;   /* of the incumbent */
    double      kl;           /* of the incumbent at this level, nats */
    uint32_t    level;
    const char *source; /* who proposed it */
    double      tokens; /* spent so far */
} bb_search_step;

/* What every option does around one plan: changes of KL, and inner products between changes where they are known. */
typedef struct bb_local_score {
    const double *const *linear; /* [n_units] tables shaped as bb_unit.cost: nats, any sign; borrowed until the next call */
    const float         *gram;   /* [M * M] with a zero diagonal block for each unit, or NULL; borrowed likewise */
    double               tokens; /* what measuring it has cost, whenever that was */
    /* of a gradient: */
    const double *const *first; /* the part of `linear` that is of first order */
    double               kl;    /* the plan's own, on the windows that it is of */
} bb_local_score;

/* Everything is borrowed; a copy with some fields changed is another search. Zero and NULL: not given, or the method's own value. */
typedef struct bb_search {
    /* the task */
    const bb_problem   *problem;
    const bb_space     *space;     /* its moves */
    const bb_separable *separable; /* its exact solver */
    const double       *share;     /* [n_units] factors that its costs hold already, which a method may also try without; NULL: none */
    const int64_t      *budgets;   /* [n_budgets] bytes, any order */
    size_t              n_budgets;
    uint64_t            seed;
    /* scores */
    bb_ledger  *ledger;        /* every score comes from it; bb_ledger_evaluator says levels and windows */
    bb_archive *archive;       /* initialised with n_units */
    double      window_tokens; /* what a window costs, about: how many evaluations a number of tokens buys */
    /* when to end */
    bb_stop_rule   stop;
    bb_stop_reason why;          /* set by run: what ended it */
    double         other_tokens; /* spent outside the ledger, on local scores and gradients */
    /* plans to begin with */
    const uint16_t *starts; /* [n_starts][n_units], the best first; those above a budget are left out there */
    size_t          n_starts;
    const uint16_t *source; /* [n_units] the plan that changes nothing: nothing pruned, nothing quantized */
    /* Up to max plans of one format within the budget, by separable cost: x[max][n_units], their names, *n of them. */
    bb_status (*uniform)(void *self, int64_t budget, size_t max, uint16_t *x, char (*names)[BB_SOURCE], size_t *n, bb_err *err);
    void      *uniform_self;
    bb_ledger *uniform_ledger; /* tells the best of them at this level: another than `ledger` where its tokens are not the search's */
    uint32_t   uniform_level;
    /* scores that need no evaluation */
    const bb_quadratic *quadratic;                                                       /* interactions of all options around `source` */
    bb_status (*local)(void *self, const uint16_t *x, bb_local_score *out, bb_err *err); /* measures a score around plan x */
    void  *local_self;
    double local_cost; /* tokens, about */
    /* The same to first order from a gradient at plan x, without pairs, and with `second` also to second order; 0 for the plan's own options. batch 0: always on
     * the same windows; k > 0: on the k-th batch of as many windows of a longer text, which begins again where it ends. */
    bb_status (*gradient)(void *self, const uint16_t *x, bool second, uint32_t batch, bb_local_score *out, bb_err *err);
    void  *gradient_self;
    double gradient_cost[2]; /* tokens, without and with the second order */
    double batch_cost;       /* tokens of a batch k > 0, without */
    /* Changes x towards what was learned through the whole network for this budget, at the price of about max_tokens (0: any), which *tokens says. Units that
     * the learning says nothing of stay; the plan need not be within the budget, nor one that can be loaded. */
    bb_status (*learned)(void *self, int64_t budget, double max_tokens, uint16_t *x, double *tokens, bb_err *err);
    void *learned_self;
    /* sizes */
    uint32_t candidates; /* a round and budget; offspring or population of a generation */
    uint32_t finalists;  /* plans a budget scored at the top level in the end */
    uint32_t one_level;  /* 1 + the level at which methods that use one level score */
    /* convergence: whenever a round ends or an incumbent changes */
    void (*progress)(void *self, const bb_search_step *step);
    void *progress_self;
} bb_search;

double   bb_search_spent(const bb_search *s); /* tokens so far */
uint32_t bb_search_top(const bb_search *s);   /* the top level */
/* For loops that ask step by step: whether the stop rule's tokens or evaluations are used up; *why is set if so. */
bool bb_search_is_over(const bb_search *s, bb_stop_reason *why);
/* For methods that plan ahead: whether `planned` more tokens leave `reserve` of them for the end, all within a share of the rest. */
bool bb_search_has_room(const bb_search *s, double planned, double reserve, double share);
/* Puts x, which was scored at the top level (it is in the ledger), into the archive, with its separable cost and bound. */
bb_status bb_search_keep(const bb_search *s, const uint16_t *x, const char *source, bb_err *err);
/* The best of the few uniform plans of a budget first, x[BB_N_UNIFORM][n_units], by KL at uniform_level; *n: their number, 0 without `uniform`.
 * *least (may be NULL): that KL. *tokens (may be NULL) is added to. */
enum { BB_N_UNIFORM = 3 };
bb_status bb_search_uniform(const bb_search *s, int64_t budget, uint16_t *x, char (*names)[BB_SOURCE], size_t *n, double *least, double *tokens, bb_err *err);

/* ---- the table ---- */

typedef enum bb_simple {
    BB_NOT_SIMPLE,
    BB_SIMPLE_OF_ONE,
    BB_SIMPLE
} bb_simple; /* OF_ONE: guards where one size is asked for; it would triple the evaluations of a front */

/* The plan of one size, without search. */
typedef struct bb_simple_plan {
    uint16_t *x;     /* [n_units], the caller's */
    bool      found; /* false: none is as small, or none is allowed */
    char      source[BB_SOURCE];
    double    tokens; /* scored to choose it */
} bb_simple_plan;

struct bb_algorithm;
typedef struct bb_search_method bb_search_method;
struct bb_search_method {
    const char                *name, *reference;
    bb_simple                  simple;
    bool                       whole_front;     /* serves all budgets in one run; the others one after another, the tokens shared evenly */
    bool                       many_tokens;     /* its authors give it many times our tokens: `rivals --times` */
    bool                       has_offspring;   /* and generations of so many plans: `rivals --offspring` */
    bool                       needs_quadratic; /* `quadratic` of the context; */
    bool                       uses_local;      /* goes by `local` where it is given */
    bool                       needs_gradient;  /* `gradient` of the context */
    bool                       needs_learned;   /* `learned` */
    uint32_t                   level;           /* where it scores when it uses one level */
    const struct bb_algorithm *algorithm;       /* ask/tell (algs/algorithm.h), run by bb_method_drive */
    bb_status (*run)(const bb_search_method *m, bb_search *s, bb_err *err); /* BB_INFEASIBLE: no plan for any budget */
    bb_status (*plan)(const bb_search_method *m, const bb_search *s, int64_t budget, bb_simple_plan *out, bb_err *err); /* NULL: it has to search */
};

/* In the order in which messages list them and the simple ones guard; the first is the default. FIRST and X are given the name. */
#define BB_METHOD_LIST(FIRST, X) \
    FIRST(refine) \
    X(uniform) \
    X(separable) \
    X(quantization) \
    X(pruning) \
    X(quadratic) \
    X(random) \
    X(annealing) \
    X(nsga2) \
    X(evopress) \
    X(amq) \
    X(newton) \
    X(relaxed) \
    X(rco) \
    X(toga)

#define BB_METHOD_EXTERN(name) extern const bb_search_method bb_method_##name;
BB_METHOD_LIST(BB_METHOD_EXTERN, BB_METHOD_EXTERN)
#undef BB_METHOD_EXTERN

/* "refine|uniform|...": the choices of an option. */
#define BB_METHOD_FIRST_NAME(name) #name
#define BB_METHOD_BAR_NAME(name) "|" #name
#define BB_METHOD_NAMES BB_METHOD_LIST(BB_METHOD_FIRST_NAME, BB_METHOD_BAR_NAME)

const bb_search_method *bb_method_at(size_t i);            /* NULL past the end */
const bb_search_method *bb_method_named(const char *name); /* NULL when unknown */

/* `run` of the rows with a `plan`: each budget's, scored at the top level. */
bb_status bb_method_plans(const bb_search_method *m, bb_search *s, bb_err *err);
/* `run` of the rows with an `algorithm` (driver.c): one run for all budgets, or one each. */
bb_status bb_method_drive(const bb_search_method *m, bb_search *s, bb_err *err);

#endif
