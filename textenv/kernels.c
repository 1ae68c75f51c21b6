/* Steps that cost torch more in calls or in passes over memory than in work. Of decoding: the norm; rotary embedding,
 * cache write and attention of one new token per sequence; the draw of the next token. Of updates: log-probabilities of
 * given tokens and the gradient of their logits; the norm's gradient; the gate of a block and its gradient; the attention
 * of documents to themselves and its gradient. Compiled for the local machine on first use; see kernels.py.
 *
 * `low` says whether tensors are bfloat16 (1) or float32 (0); all sums are float32. Work is dealt to the threads of the
 * OpenMP runtime that torch already runs, whose entry point the caller passes in.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define TILE 32
#define MAX_HEADS 64

typedef void (*region)(void *);
typedef void (*runtime)(region, void *, unsigned, unsigned);

INLINE float get(const void *p, long i, int low) {
    if (!low) return ((const float *)p)[i];
    union { uint32_t u; float f; } v;
    v.u = (uint32_t)((const uint16_t *)p)[i] << 16;
    return v.f;
}

INLINE void put(void *p, long i, float x, int low) {
    if (!low) {
        ((float *)p)[i] = x;
        return;
    }
    union { uint32_t u; float f; } v;
    v.f = x;
    uint32_t rounded = (v.u + 0x7fff + ((v.u >> 16) & 1)) >> 16; /* nearest, ties to even, as torch rounds */
    ((uint16_t *)p)[i] = (uint16_t)((v.u & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded);
}

/* exp with relative error below 2e-7 for x in [-87, 0], in a form that vectorises (Cephes' polynomial). */
INLINE float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    float n = rintf(x * 1.44269504f);
    float f = x - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.0f;
    union { int32_t i; float f; } scale;
    scale.i = ((int32_t)n + 127) << 23;
    return p * scale.f;
}

/* --- root-mean-square norm ---------------------------------------------------------------------------------------- */

typedef struct {
    const void *x, *weight;
    void *out;
    long rows, dim, next;
    float eps;
    int low;
} norm_job;

INLINE void norm_row(const norm_job *job, long row, int low) {
    const long dim = job->dim, start = row * dim;
    float sum = 0;
    for (long i = 0; i < dim; i++) {
        float x = get(job->x, start + i, low);
        sum += x * x;
    }
    const float scale = 1.0f / sqrtf(sum / dim + job->eps);
    for (long i = 0; i < dim; i++)
        put(job->out, start + i, get(job->x, start + i, low) * scale * get(job->weight, i, low), low);
}

static void norm_region(void *data) {
    norm_job *job = data;
    long row;
    while ((row = __atomic_fetch_add(&job->next, 8, __ATOMIC_RELAXED)) < job->rows)
        for (long r = row; r < row + 8 && r < job->rows; r++) {
            if (job->low) norm_row(job, r, 1);
            else norm_row(job, r, 0);
        }
}

void rms_norm(runtime parallel, const void *x, const void *weight, void *out, long rows, long dim, float eps, int low) {
    norm_job job = {x, weight, out, rows, dim, 0, eps, low};
    if (parallel && rows > 16) parallel(norm_region, &job, 0, 0);
    else norm_region(&job);
}

/* The gradient by the weight is summed in a fixed number of parts, so that it does not depend on the threads. */
#define PARTS 16

typedef struct {
    const void *x, *weight, *by_out;
    void *by_x;
    float *by_weight; /* (PARTS, dim) */
    long rows, dim, next;
    float eps;
    int low;
} norm_slope_job;

INLINE void norm_slopes(const norm_slope_job *job, long part, int low) {
    const long dim = job->dim, first = part * job->rows / PARTS, last = (part + 1) * job->rows / PARTS;
    float *by_weight = job->by_weight + part * dim;
    for (long i = 0; i < dim; i++) by_weight[i] = 0;
    for (long row = first; row < last; row++) {
        const long start = row * dim;
        float sum = 0, dot = 0;
        for (long i = 0; i < dim; i++) {
            const float x = get(job->x, start + i, low);
            sum += x * x;
            dot += x * get(job->by_out, start + i, low) * get(job->weight, i, low);
        }
        const float scale = 1.0f / sqrtf(sum / dim + job->eps), along = dot * scale * scale * scale / dim;
        for (long i = 0; i < dim; i++) {
            const float x = get(job->x, start + i, low), slope = get(job->by_out, start + i, low);
            by_weight[i] += slope * x * scale;
            put(job->by_x, start + i, slope * get(job->weight, i, low) * scale - x * along, low);
        }
    }
}

static void norm_slope_region(void *data) {
    norm_slope_job *job = data;
    long part;
    while ((part = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < PARTS) {
        if (job->low) norm_slopes(job, part, 1);
        else norm_slopes(job, part, 0);
    }
}

void rms_norm_gradient(runtime parallel, const void *x, const void *weight, const void *by_out, void *by_x,
                       float *by_weight, long rows, long dim, float eps, int low) {
    norm_slope_job job = {x, weight, by_out, by_x, by_weight, rows, dim, 0, eps, low};
    if (parallel && rows > 16) parallel(norm_slope_region, &job, 0, 0);
    else norm_slope_region(&job);
}

/* --- silu(gate) * up ------------------------------------------------------------------------------------------------ */

#define PIECE 4096

typedef struct {
    const void *gate, *up, *by_out; /* the last null for the forward pass */
    void *out, *by_gate, *by_up;
    long count, next;
    int low;
} gate_job;

INLINE float sigmoid(float x) {
    const float e = exponential(x < 0 ? x : -x);
    return (x < 0 ? e : 1.0f) / (1.0f + e);
}

INLINE void gate_piece(const gate_job *job, long begin, int low) {
    const long end = begin + PIECE < job->count ? begin + PIECE : job->count;
    if (!job->by_out)
        for (long i = begin; i < end; i++) {
            const float g = get(job->gate, i, low);
            put(job->out, i, g * sigmoid(g) * get(job->up, i, low), low);
        }
    else
        for (long i = begin; i < end; i++) {
            const float g = get(job->gate, i, low), s = sigmoid(g), slope = get(job->by_out, i, low);
            put(job->by_gate, i, slope * get(job->up, i, low) * s * (1.0f + g * (1.0f - s)), low);
            put(job->by_up, i, slope * g * s, low);
        }
}

static void gate_region(void *data) {
    gate_job *job = data;
    long begin;
    while ((begin = __atomic_fetch_add(&job->next, PIECE, __ATOMIC_RELAXED)) < job->count) {
        if (job->low) gate_piece(job, begin, 1);
        else gate_piece(job, begin, 0);
    }
}

void gated(runtime parallel, const void *gate, const void *up, const void *by_out, void *out, void *by_gate,
           void *by_up, long count, int low) {
    gate_job job = {gate, up, by_out, out, by_gate, by_up, count, 0, low};
    if (parallel && count > PIECE) parallel(gate_region, &job, 0, 0);
    else gate_region(&job);
}

/* --- one new token per sequence: rotary embedding, cache write, attention ------------------------------------------ */

typedef struct {
    const void *qkv;                    /* (rows, heads + 2 kv_heads, dim) */
    const float *cos, *sin;             /* (rows, dim) */
    void *keys, *values;                /* (slots, positions, kv_heads, dim) */
    const int64_t *places, *targets, *lengths; /* of each row: its slot, where the token goes, how many tokens it sees */
    void *out;                          /* (rows, heads, dim) */
    long rows, heads, kv_heads, dim, positions, next;
    float scale;
    int low;
} attention_job;

/* Ask for a part of the cache before it is needed: it comes from main memory. */
INLINE void ahead(const void *p, long start, long count, int low) {
    const char *from = (const char *)p + start * (low ? 2 : 4), *to = from + count * (low ? 2 : 4);
    for (; from < to; from += 64) __builtin_prefetch(from);
}

INLINE float rotated(const void *x, long start, long i, long dim, const float *cos, const float *sin, int low) {
    const long half = dim / 2;
    const float other = i < half ? -get(x, start + i + half, low) : get(x, start + i - half, low);
    return get(x, start + i, low) * cos[i] + other * sin[i];
}

/* All heads of one row together: the cache is read once, from front to back. */
INLINE void attend(const attention_job *job, long row, long dim, int low) {
    const long kv_heads = job->kv_heads, heads = job->heads, groups = heads / kv_heads, stride = kv_heads * dim;
    const long base = job->places[row] * job->positions * stride, length = job->lengths[row];
    const long qkv = row * (heads + 2 * kv_heads) * dim, target = base + job->targets[row] * stride;
    const float *cos = job->cos + row * dim, *sin = job->sin + row * dim;
    float query[MAX_HEADS * dim], sum[MAX_HEADS * dim], score[MAX_HEADS * TILE], line[dim];
    float top[MAX_HEADS], total[MAX_HEADS];

    for (long h = 0; h < kv_heads; h++) {
        const long k = qkv + (heads + h) * dim, v = k + kv_heads * dim;
        for (long i = 0; i < dim; i++) {
            put(job->keys, target + h * dim + i, rotated(job->qkv, k, i, dim, cos, sin, low), low);
            put(job->values, target + h * dim + i, get(job->qkv, v + i, low), low);
        }
    }
    for (long h = 0; h < heads; h++) {
        for (long i = 0; i < dim; i++) {
            query[h * dim + i] = rotated(job->qkv, qkv + h * dim, i, dim, cos, sin, low) * job->scale;
            sum[h * dim + i] = 0;
        }
        top[h] = -INFINITY;
        total[h] = 0;
    }
    for (long begin = 0; begin < length; begin += TILE) {
        const long count = length - begin < TILE ? length - begin : TILE;
        for (long j = 0; j < count; j++) {
            ahead(job->keys, base + (begin + j + 8) * stride, stride, low);
            ahead(job->values, base + (begin + j) * stride, stride, low);
            for (long h = 0; h < kv_heads; h++) {
                const long at = base + (begin + j) * stride + h * dim;
                for (long i = 0; i < dim; i++) line[i] = get(job->keys, at + i, low);
                for (long g = h * groups; g < (h + 1) * groups; g++) {
                    float dot = 0;
                    for (long i = 0; i < dim; i++) dot += query[g * dim + i] * line[i];
                    score[g * TILE + j] = dot;
                }
            }
        }
        for (long h = 0; h < heads; h++) {
            float *of_head = score + h * TILE, best = top[h], added = 0;
            for (long j = 0; j < count; j++) best = of_head[j] > best ? of_head[j] : best;
            const float shrink = top[h] == -INFINITY ? 0.0f : exponential(top[h] - best);
            for (long j = 0; j < count; j++) {
                of_head[j] = exponential(of_head[j] - best);
                added += of_head[j];
            }
            total[h] = total[h] * shrink + added;
            top[h] = best;
            for (long i = 0; i < dim; i++) sum[h * dim + i] *= shrink;
        }
        for (long j = 0; j < count; j++)
            for (long h = 0; h < kv_heads; h++) {
                const long at = base + (begin + j) * stride + h * dim;
                for (long i = 0; i < dim; i++) line[i] = get(job->values, at + i, low);
                for (long g = h * groups; g < (h + 1) * groups; g++) {
                    const float weight = score[g * TILE + j];
                    for (long i = 0; i < dim; i++) sum[g * dim + i] += weight * line[i];
                }
            }
    }
    for (long h = 0; h < heads; h++) {
        const long o = (row * heads + h) * dim;
        const float share = 1.0f / total[h];
        for (long i = 0; i < dim; i++) put(job->out, o + i, sum[h * dim + i] * share, low);
    }
}

/* The usual head sizes get loops of known length. */
INLINE void attend_row(const attention_job *job, long row, int low) {
    if (job->dim == 64) attend(job, row, 64, low);
    else if (job->dim == 128) attend(job, row, 128, low);
    else attend(job, row, job->dim, low);
}

static void attention_region(void *data) {
    attention_job *job = data;
    long row;
    while ((row = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->rows) {
        if (job->low) attend_row(job, row, 1);
        else attend_row(job, row, 0);
    }
}

void decode_attention(runtime parallel, const void *qkv, const float *cos, const float *sin, void *keys, void *values,
                      const int64_t *places, const int64_t *targets, const int64_t *lengths, void *out, long rows,
                      long heads, long kv_heads, long dim, long positions, float scale, int low) {
    attention_job job = {qkv, cos, sin, keys, values, places, targets, lengths, out,
                         rows, heads, kv_heads, dim, positions, 0, scale, low};
    if (parallel && rows > 1) parallel(attention_region, &job, 0, 0);
    else attention_region(&job);
}

/* --- drawing a token per row by inverse transform ------------------------------------------------------------------- */

#define BLOCK 512

typedef struct {
    const void *logits;    /* (rows, vocabulary), rows `stride` entries apart */
    const double *points;  /* where in the cumulative distribution to look, in [0, 1) */
    int64_t *tokens;
    double *tops, *totals; /* largest logit, and sum of exp((logit - top) / temperature) */
    double *plain;         /* sum of exp(logit - top); null at temperature 1 */
    long rows, vocabulary, stride, next;
    float scale, rest;     /* 1 / temperature, as the sum of two floats */
    int low;
} draw_job;

/* Integers in the order of the floats: their maximum vectorises without a word about NaN. */
INLINE int32_t ordered(const void *p, long i, int low) {
    if (low) {
        const int16_t bits = ((const int16_t *)p)[i];
        return (int16_t)(bits ^ ((bits >> 15) & 0x7fff));
    }
    const int32_t bits = ((const int32_t *)p)[i];
    return bits ^ ((bits >> 31) & 0x7fffffff);
}

INLINE float largest(const void *p, long count, int low) {
    union { int32_t i; float f; } value;
    if (low) {
        int16_t best = INT16_MIN;
        for (long i = 0; i < count; i++) {
            const int16_t here = (int16_t)ordered(p, i, 1);
            best = here > best ? here : best;
        }
        value.i = (int32_t)((uint32_t)(uint16_t)(best ^ ((best >> 15) & 0x7fff)) << 16);
    } else {
        int32_t best = INT32_MIN;
        for (long i = 0; i < count; i++) {
            const int32_t here = ordered(p, i, 0);
            best = here > best ? here : best;
        }
        value.i = best ^ ((best >> 31) & 0x7fffffff);
    }
    return value.f;
}

INLINE float weight(const void *p, long i, float top, float scale, float rest, int low) {
    const float above = get(p, i, low) - top, x = above * scale + above * rest, e = exponential(x);
    return x < -86.0f ? 0.0f : e;
}

INLINE float block_sum(const void *p, long begin, long end, float top, float scale, float rest, int low) {
    float sum = 0;
    for (long i = begin; i < end; i++) sum += weight(p, i, top, scale, rest, low);
    return sum;
}

INLINE void draw_row(const draw_job *job, long row, int low) {
    const long vocabulary = job->vocabulary, blocks = (vocabulary + BLOCK - 1) / BLOCK;
    const void *logits = (const char *)job->logits + row * job->stride * (low ? 2 : 4);
    const float top = largest(logits, vocabulary, low), scale = job->scale, rest = job->rest;
    double sums[blocks], total = 0, plain = 0, before = 0;
    for (long b = 0; b < blocks; b++) {
        const long end = (b + 1) * BLOCK < vocabulary ? (b + 1) * BLOCK : vocabulary;
        sums[b] = block_sum(logits, b * BLOCK, end, top, scale, rest, low);
        total += sums[b];
        if (job->plain) plain += block_sum(logits, b * BLOCK, end, top, 1.0f, 0.0f, low);
    }
    job->tops[row] = top;
    job->totals[row] = total;
    if (job->plain) job->plain[row] = plain;

    const double point = job->points[row] * total;
    long b = 0;
    while (b < blocks - 1 && before + sums[b] <= point) before += sums[b++];
    while (b > 0 && sums[b] == 0) before -= sums[--b]; /* rounding may lead past the last block with a weight */
    const long end = (b + 1) * BLOCK < vocabulary ? (b + 1) * BLOCK : vocabulary;
    long found = b * BLOCK;
    for (long i = b * BLOCK; i < end; i++) {
        const float w = weight(logits, i, top, scale, rest, low);
        if (!(w > 0)) continue;
        found = i;
        before += w;
        if (before > point) break;
    }
    job->tokens[row] = found;
}

static void draw_region(void *data) {
    draw_job *job = data;
    long row;
    while ((row = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->rows) {
        if (job->low) draw_row(job, row, 1);
        else draw_row(job, row, 0);
    }
}

void draw_tokens(runtime parallel, const void *logits, const double *points, int64_t *tokens, double *tops,
                 double *totals, double *plain, long rows, long vocabulary, long stride, double inverse_temperature,
                 int low) {
    const float scale = (float)inverse_temperature, rest = (float)(inverse_temperature - scale);
    draw_job job = {logits, points, tokens, tops, totals, plain, rows, vocabulary, stride, 0, scale, rest, low};
    if (parallel && rows > 1) parallel(draw_region, &job, 0, 0);
    else draw_region(&job);
}

/* --- log-probabilities of given tokens, and the gradient of the logits --------------------------------------------- */

typedef struct {
    void *logits;           /* (rows, vocabulary), rows `stride` entries apart; the gradient overwrites it */
    const int64_t *targets;
    float *logprobs;        /* of the targets, at a temperature */
    float *tops, *totals;   /* largest logit, and sum of exp((logit - top) / temperature) */
    float *entropy;         /* null where not asked for */
    const float *by_logprob, *by_entropy; /* gradients that came back; the second null without entropy */
    long rows, vocabulary, stride, next;
    float scale;            /* 1 / temperature */
    int low;
} logprob_job;

INLINE void logprob_row(const logprob_job *job, long row, int low) {
    const void *logits = (const char *)job->logits + row * job->stride * (low ? 2 : 4);
    const float top = largest(logits, job->vocabulary, low), scale = job->scale;
    double total = 0, moment = 0;
    for (long begin = 0; begin < job->vocabulary; begin += BLOCK) {
        const long end = begin + BLOCK < job->vocabulary ? begin + BLOCK : job->vocabulary;
        total += block_sum(logits, begin, end, top, scale, 0.0f, low);
        if (!job->entropy) continue;
        float sum = 0;
        for (long i = begin; i < end; i++) {
            const float x = (get(logits, i, low) - top) * scale, e = exponential(x);
            sum += x < -86.0f ? 0.0f : e * x;
        }
        moment += sum;
    }
    job->tops[row] = top;
    job->totals[row] = (float)total;
    job->logprobs[row] = (get(logits, job->targets[row], low) - top) * scale - (float)log(total);
    if (job->entropy) job->entropy[row] = (float)(log(total) - moment / total);
}

INLINE void slope_row(const logprob_job *job, long row, int low) {
    void *logits = (char *)job->logits + row * job->stride * (low ? 2 : 4);
    const float top = job->tops[row], scale = job->scale, share = 1.0f / job->totals[row];
    const float level = logf(job->totals[row]), by_logprob = job->by_logprob[row] * scale;
    if (job->by_entropy) {
        const float by_entropy = job->by_entropy[row] * scale, entropy = job->entropy[row];
        for (long i = 0; i < job->vocabulary; i++) {
            const float x = (get(logits, i, low) - top) * scale, p = exponential(x) * share;
            const float slope = -p * (by_logprob + by_entropy * (x - level + entropy));
            put(logits, i, x < -86.0f ? 0.0f : slope, low);
        }
    } else {
        const float factor = -by_logprob * share;
        for (long i = 0; i < job->vocabulary; i++) {
            const float x = (get(logits, i, low) - top) * scale, e = exponential(x);
            put(logits, i, x < -86.0f ? 0.0f : e * factor, low);
        }
    }
}

/* One rounding for the target's entry: it is by far the largest. */
INLINE float target_slope(const logprob_job *job, long row, float logit) {
    const float x = (logit - job->tops[row]) * job->scale, share = 1.0f / job->totals[row];
    const float p = x < -86.0f ? 0.0f : exponential(x) * share;
    float slope = job->by_logprob[row] * (1.0f - p);
    if (job->by_entropy && p > 0)
        slope -= job->by_entropy[row] * p * (x - logf(job->totals[row]) + job->entropy[row]);
    return slope * job->scale;
}

INLINE void slope_of(const logprob_job *job, long row, int low) {
    void *logits = (char *)job->logits + row * job->stride * (low ? 2 : 4);
    const float slope = target_slope(job, row, get(logits, job->targets[row], low));
    slope_row(job, row, low);
    put(logits, job->targets[row], slope, low);
}

static void logprob_region(void *data) {
    logprob_job *job = data;
    long row;
    while ((row = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->rows) {
        if (job->low) logprob_row(job, row, 1);
        else logprob_row(job, row, 0);
    }
}

static void slope_region(void *data) {
    logprob_job *job = data;
    long row;
    while ((row = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->rows) {
        if (job->low) slope_of(job, row, 1);
        else slope_of(job, row, 0);
    }
}

void token_logprobs(runtime parallel, void *logits, const int64_t *targets, float *logprobs, float *tops, float *totals,
                  float *entropy, long rows, long vocabulary, long stride, float scale, int low) {
    logprob_job job = {logits, targets, logprobs, tops, totals, entropy, 0, 0, rows, vocabulary, stride, 0, scale, low};
    if (parallel && rows > 1) parallel(logprob_region, &job, 0, 0);
    else logprob_region(&job);
}

void logprob_gradient(runtime parallel, void *logits, const int64_t *targets, float *tops, float *totals, float *entropy,
                    const float *by_logprob, const float *by_entropy, long rows, long vocabulary, long stride,
                    float scale, int low) {
    logprob_job job = {logits, targets, 0, tops, totals, entropy, by_logprob, by_entropy,
                     rows, vocabulary, stride, 0, scale, low};
    if (parallel && rows > 1) parallel(slope_region, &job, 0, 0);
    else slope_region(&job);
}

/* --- documents that attend to themselves, causally ------------------------------------------------------------------ */

#define QUERIES 16 /* worked on together */

typedef float lanes __attribute__((vector_size(32), aligned(4), may_alias));

typedef struct {
    const float *data; /* (tokens, heads, dim), the last contiguous */
    long token, head;  /* strides */
} states;

typedef struct {
    states q, k, v;
    float *out;                    /* (tokens, heads, dim), and so `by_out` and `by_q` */
    float *totals;                 /* log of the sum of exponentials, (tokens, heads) */
    const float *by_out;           /* null for the forward pass */
    float *by_q, *by_k, *by_v;     /* the latter (tokens, kv_heads, dim) */
    float *more_k, *more_v;        /* (repeated places, kv_heads, dim) */
    const int64_t *tokens;         /* of all documents, one after the other */
    const int64_t *starts;         /* where in these each document starts, and the end */
    const int64_t *repeated;       /* repeated places of the documents before each, and of all */
    float *scratch;                /* (slots, room) */
    long documents, heads, kv_heads, dim, slots, room, next, taken;
    float scale;
} document_job;

INLINE long up(long count, long multiple) { return (count + multiple - 1) / multiple * multiple; }

/* c = a · b, or added to c, for 4 rows of c and 8 · wide columns. */
INLINE void product_tile(const float *a, long a_row, long a_column, const float *b, long b_row, float *c, long c_row,
                         long depth, int add, int wide) {
    lanes sum[4][2];
    for (int r = 0; r < 4; r++)
        for (int w = 0; w < wide; w++) sum[r][w] = add ? *(lanes *)(c + r * c_row + 8 * w) : (lanes){0};
    for (long t = 0; t < depth; t++)
        for (int r = 0; r < 4; r++)
            for (int w = 0; w < wide; w++)
                sum[r][w] += a[r * a_row + t * a_column] * *(const lanes *)(b + t * b_row + 8 * w);
    for (int r = 0; r < 4; r++)
        for (int w = 0; w < wide; w++) *(lanes *)(c + r * c_row + 8 * w) = sum[r][w];
}

/* Rows are rounded up to 4; columns are a multiple of 8. */
static void product(const float *a, long a_row, long a_column, const float *b, long b_row, float *c, long c_row,
                    long rows, long columns, long depth, int add) {
    for (long i = 0; i < rows; i += 4) {
        long j = 0;
        for (; j + 16 <= columns; j += 16)
            product_tile(a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row, depth, add, 2);
        if (j < columns)
            product_tile(a + i * a_row, a_row, a_column, b + j, b_row, c + i * c_row + j, c_row, depth, add, 1);
    }
}

/* Rows of a head, multiplied, zeros behind them up to `width` columns and `padded` rows. */
static void gather(states from, long head, const int64_t *tokens, long count, long dim, float factor, float *to,
                   long width, long padded) {
    for (long i = 0; i < count; i++) {
        const float *row = from.data + tokens[i] * from.token + head * from.head;
        if (i + 8 < count) ahead(from.data, tokens[i + 8] * from.token + head * from.head, dim, 0);
        for (long c = 0; c < dim; c++) to[i * width + c] = row[c] * factor;
        for (long c = dim; c < width; c++) to[i * width + c] = 0;
    }
    memset(to + count * width, 0, (padded - count) * width * sizeof(float));
}

static void transpose(const float *from, long rows, long columns, float *to) {
    for (long i = 0; i < rows; i += 8)
        for (long j = 0; j < columns; j++)
            for (long r = i; r < i + 8; r++) to[j * rows + r] = from[r * columns + j];
}

/* One document, one head of keys and values, all heads of queries that look at them. */
static void document(const document_job *job, long number, long kv_head, float *room) {
    const int64_t *tokens = job->tokens + job->starts[number];
    const long length = job->starts[number + 1] - job->starts[number], before = job->repeated[number];
    const long repeats = job->repeated[number + 1] - before, group = job->heads / job->kv_heads;
    const long dim = job->dim, width = up(dim, 8), rows = up(length, 16);
    float *keys = room, *keys_t = keys + rows * width, *values = keys_t + rows * width, *values_t = values + rows * width;
    float *by_keys = values_t + rows * width, *by_values = by_keys + rows * width;
    float *query = by_values + rows * width, *slope = query + QUERIES * width, *result = slope + QUERIES * width;
    float *share = result + QUERIES * width, *by_share = share + QUERIES * rows;

    if (repeats == length && !job->by_out) return;
    gather(job->k, kv_head, tokens, length, dim, 1.0f, keys, width, rows);
    gather(job->v, kv_head, tokens, length, dim, 1.0f, values, width, rows);
    transpose(keys, rows, width, keys_t);
    if (job->by_out) {
        transpose(values, rows, width, values_t);
        memset(by_keys, 0, 2 * rows * width * sizeof(float));
    }
    for (long head = kv_head * group; head < (kv_head + 1) * group; head++)
        for (long begin = repeats; begin < length; begin += QUERIES) {
            const long count = length - begin < QUERIES ? length - begin : QUERIES, seen = begin + count;
            const long padded = up(count, 4), columns = up(seen, 8);
            if (job->by_out)
                for (long i = 0; i < count; i++)
                    ahead(job->out, (tokens[begin + i] * job->heads + head) * dim, dim, 0);
            gather(job->q, head, tokens + begin, count, dim, job->scale, query, width, padded);
            product(query, width, 1, keys_t, rows, share, rows, padded, columns, width, 0);
            if (!job->by_out) {
                for (long i = 0; i < count; i++) {
                    float *line = share + i * rows, top = line[0], total = 0;
                    const long own = begin + i + 1;
                    for (long j = 1; j < own; j++) top = line[j] > top ? line[j] : top;
                    for (long j = 0; j < own; j++) {
                        line[j] = exponential(line[j] - top);
                        total += line[j];
                    }
                    for (long j = 0; j < own; j++) line[j] /= total;
                    for (long j = own; j < columns; j++) line[j] = 0;
                    job->totals[tokens[begin + i] * job->heads + head] = top + logf(total);
                }
                product(share, rows, 1, values, width, result, width, padded, width, seen, 0);
                for (long i = 0; i < count; i++)
                    memcpy(job->out + (tokens[begin + i] * job->heads + head) * dim, result + i * width,
                           dim * sizeof(float));
                continue;
            }
            const states by_out = {job->by_out, job->heads * dim, dim};
            gather(by_out, head, tokens + begin, count, dim, 1.0f, slope, width, padded);
            product(slope, width, 1, values_t, rows, by_share, rows, padded, columns, width, 0);
            for (long i = 0; i < padded; i++) {
                float *line = share + i * rows, *by_line = by_share + i * rows, along = 0, total = 0;
                const long own = i < count ? begin + i + 1 : 0;
                if (own) {
                    const long at = tokens[begin + i] * job->heads + head;
                    for (long c = 0; c < dim; c++) along += slope[i * width + c] * job->out[at * dim + c];
                    total = job->totals[at];
                }
                for (long j = 0; j < own; j++) {
                    line[j] = exponential(line[j] - total);
                    by_line[j] = line[j] * (by_line[j] - along);
                }
                for (long j = own; j < columns; j++) line[j] = by_line[j] = 0;
            }
            product(share, 1, rows, slope, width, by_values, width, seen, width, count, 1);
            product(by_share, 1, rows, query, width, by_keys, width, seen, width, count, 1);
            product(by_share, rows, 1, keys, width, result, width, padded, width, seen, 0);
            for (long i = 0; i < count; i++)
                for (long c = 0; c < dim; c++)
                    job->by_q[(tokens[begin + i] * job->heads + head) * dim + c] = result[i * width + c] * job->scale;
        }
    if (!job->by_out) return;
    /* Another document has the first places too: what this one adds to their gradients is kept apart. */
    for (long i = 0; i < length; i++) {
        const long row = (i < repeats ? before + i : tokens[i]) * job->kv_heads + kv_head;
        memcpy((i < repeats ? job->more_k : job->by_k) + row * dim, by_keys + i * width, dim * sizeof(float));
        memcpy((i < repeats ? job->more_v : job->by_v) + row * dim, by_values + i * width, dim * sizeof(float));
    }
}

static void document_region(void *data) {
    document_job *job = data;
    const long slot = __atomic_fetch_add(&job->taken, 1, __ATOMIC_RELAXED);
    long item;
    if (slot >= job->slots) return;
    while ((item = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->documents * job->kv_heads)
        document(job, item / job->kv_heads, item % job->kv_heads, job->scratch + slot * job->room);
}

/* Floats that a thread needs for documents of at most this length. */
long document_room(long longest, long dim) {
    const long width = up(dim, 8), rows = up(longest, 16);
    return 6 * rows * width + 3 * QUERIES * width + 2 * QUERIES * rows;
}

void document_attention(runtime parallel, const float *q, const float *k, const float *v, const int64_t *strides,
                        float *out, float *totals, const float *by_out, float *by_q, float *by_k, float *by_v,
                        float *more_k, float *more_v, const int64_t *tokens, const int64_t *starts,
                        const int64_t *repeated, float *scratch, long documents, long heads, long kv_heads, long dim,
                        long longest, long slots, float scale) {
    document_job job = {{q, strides[0], strides[1]}, {k, strides[2], strides[3]}, {v, strides[4], strides[5]},
                        out, totals, by_out, by_q, by_k, by_v, more_k, more_v, tokens, starts, repeated, scratch,
                        documents, heads, kv_heads, dim, slots, document_room(longest, dim), 0, 0, scale};
    if (parallel && slots > 1) parallel(document_region, &job, (unsigned)slots, 0);
    else document_region(&job);
}
