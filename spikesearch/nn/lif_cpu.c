/* Leaky integrate-and-fire over T steps, fused: one pass over memory forward, one backward.
 *
 * decay_input, hard reset to 0, detached reset, sigmoid surrogate:
 *     h[t] = v[t-1] + (x[t] - v[t-1]) / tau        s[t] = h[t] >= v_threshold        v[t] = (1 - s[t]) * h[t]
 * Compiled without floating-point contraction, so that h is rounded exactly like the three separate tensor
 * operations of SpikingJelly's reference. Neurons are independent: any split over threads gives the same numbers.
 */
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 1024        /* neurons whose state stays in the first-level cache */
#define MAX_THREADS 64

typedef struct {
    const void *x;
    const float *grad_s;
    void *out;
    int64_t begin, end, steps, x_stride, stride;
    float tau, threshold, slope;
    void (*work)(void *);
} job;

/* exp(x) for x <= 0: 2^k * p(r), relative error below 3e-7 above exp(-80), and simple enough to vectorise */
static inline float exp_approx(float x) {
    x = x < -80.0f ? -80.0f : x;
    float shifted = x * 1.44269504f + 12582912.0f; /* round to nearest through the mantissa */
    float k = shifted - 12582912.0f;
    float r = x - k * 0.693359375f + k * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)k + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* One step of one neuron: charge, fire, reset. */
static inline int fire(float *v, float x, float tau, float threshold) {
    float h = *v + (x - *v) / tau;
    int fired = h >= threshold;
    *v = fired ? 0.0f : h;
    return fired;
}

static void forward_range(void *argument) {
    const job *j = argument;
    float v[BLOCK];
    const float tau = j->tau, threshold = j->threshold;
    for (int64_t start = j->begin; start < j->end; start += BLOCK) {
        int64_t n = j->end - start < BLOCK ? j->end - start : BLOCK;
        memset(v, 0, sizeof v);
        for (int64_t t = 0; t < j->steps; t++) {
            const float *restrict x = (const float *)j->x + t * j->x_stride + start;
            float *restrict s = (float *)j->out + t * j->stride + start;
            for (int64_t i = 0; i < n; i++) s[i] = fire(&v[i], x[i], tau, threshold) ? 1.0f : 0.0f;
        }
    }
}

/* The same for bfloat16 currents and spikes; the membrane is float32 all the same. */
static void forward_bf16_range(void *argument) {
    const job *j = argument;
    const uint16_t *all_x = j->x;
    uint16_t *all_s = j->out;
    float v[BLOCK];
    const float tau = j->tau, threshold = j->threshold;
    for (int64_t start = j->begin; start < j->end; start += BLOCK) {
        int64_t n = j->end - start < BLOCK ? j->end - start : BLOCK;
        memset(v, 0, sizeof v);
        for (int64_t t = 0; t < j->steps; t++) {
            const uint16_t *restrict x = all_x + t * j->x_stride + start;
            uint16_t *restrict s = all_s + t * j->stride + start;
            for (int64_t i = 0; i < n; i++) {
                uint32_t bits = (uint32_t)x[i] << 16; /* bfloat16 is the upper half of float32 */
                float current;
                memcpy(&current, &bits, sizeof current);
                s[i] = fire(&v[i], current, tau, threshold) ? 0x3f80 : 0; /* 1.0 */
            }
        }
    }
}

static void backward_range(void *argument) {
    const job *j = argument;
    float grad_v[BLOCK], v[BLOCK];
    const float tau = j->tau, threshold = j->threshold, slope = j->slope;
    const float keep = 1.0f - 1.0f / tau, take = 1.0f / tau;
    for (int64_t start = j->begin; start < j->end; start += BLOCK) {
        int64_t n = j->end - start < BLOCK ? j->end - start : BLOCK;
        memset(v, 0, sizeof v);
        /* first pass: the charge h of every step, parked where the gradient of x will be written */
        for (int64_t t = 0; t < j->steps; t++) {
            const float *restrict x = (const float *)j->x + t * j->x_stride + start;
            float *restrict parked = (float *)j->out + t * j->stride + start;
            for (int64_t i = 0; i < n; i++) {
                float h = v[i] + (x[i] - v[i]) / tau;
                parked[i] = h;
                v[i] = h >= threshold ? 0.0f : h;
            }
        }
        memset(grad_v, 0, sizeof grad_v);
        for (int64_t t = j->steps - 1; t >= 0; t--) {
            const float *restrict grad_s = j->grad_s + t * j->stride + start;
            float *restrict grad_x = (float *)j->out + t * j->stride + start;
            for (int64_t i = 0; i < n; i++) {
                float h = grad_x[i];
                float e = exp_approx(-slope * fabsf(h - threshold)); /* the surrogate's derivative is even */
                float sigmoid = 1.0f / (1.0f + e);
                float grad_h = grad_s[i] * (slope * e * sigmoid * sigmoid);
                float open = h >= threshold ? 0.0f : 1.0f;
                grad_h += open * grad_v[i];
                grad_x[i] = grad_h * take;
                grad_v[i] = grad_h * keep;
            }
        }
    }
}

static void *start_thread(void *argument) {
    ((job *)argument)->work(argument);
    return 0;
}

static void run(job shared, int64_t neurons, int threads) {
    pthread_t handles[MAX_THREADS];
    job jobs[MAX_THREADS];
    int started[MAX_THREADS];
    /* a thread costs some 20 microseconds: give each of them enough to do */
    int64_t useful = neurons * shared.steps / 65536 + 1;
    if (threads > useful) threads = (int)useful;
    if (threads > MAX_THREADS) threads = MAX_THREADS;
    if (threads < 1) threads = 1;
    int64_t share = ((neurons + threads - 1) / threads + 15) / 16 * 16;
    for (int k = threads - 1; k >= 0; k--) {
        jobs[k] = shared;
        jobs[k].begin = k * share < neurons ? k * share : neurons;
        jobs[k].end = (k + 1) * share < neurons ? (k + 1) * share : neurons;
        started[k] = k > 0 && pthread_create(&handles[k], 0, start_thread, &jobs[k]) == 0;
        if (!started[k]) jobs[k].work(&jobs[k]);
    }
    for (int k = 1; k < threads; k++)
        if (started[k]) pthread_join(handles[k], 0);
}

void lif_forward(const float *x, float *spikes, int64_t steps, int64_t neurons, int64_t x_stride, float tau,
                 float threshold, int threads) {
    job shared = {x, 0, spikes, 0, 0, steps, x_stride, neurons, tau, threshold, 0, forward_range};
    run(shared, neurons, threads);
}

void lif_forward_bf16(const uint16_t *x, uint16_t *spikes, int64_t steps, int64_t neurons, int64_t x_stride, float tau,
                      float threshold, int threads) {
    job shared = {x, 0, spikes, 0, 0, steps, x_stride, neurons, tau, threshold, 0, forward_bf16_range};
    run(shared, neurons, threads);
}

void lif_backward(const float *x, const float *grad_s, float *grad_x, int64_t steps, int64_t neurons, int64_t x_stride,
                  float tau, float threshold, float slope, int threads) {
    job shared = {x, grad_s, grad_x, 0, 0, steps, x_stride, neurons, tau, threshold, slope, backward_range};
    run(shared, neurons, threads);
}
