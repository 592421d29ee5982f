/* Threads that share the chunks of a job's phases.

A job is phases in order; a phase is chunks in any order. There is no barrier that every thread must reach: a phase is
over when its chunks are done, so a helper that sleeps, or waits for a core that other programs use, delays nobody
unless it holds a chunk. Each thread has a range of neighbouring chunks, so that it reads memory in one line; who is
done with his own takes from the others'. A counter carries its job's number, so a helper that comes late to a finished
job takes nothing from the next one. */

#pragma once
#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "numbers.h"
#include "tiles.h"

typedef struct Job Job;
struct Job {
    i64 phases;
    i64 (*chunks)(Job *, i64 phase);
    void (*run)(Job *, i64 phase, i64 chunk, i64 worker);
    i64 rows; /* most of a tile that are used; 0: all */
};

enum { RANGES = 8 };

typedef struct {
    _Atomic uint64_t left[RANGES]; /* of each range: number of the job << 32 | chunks not yet taken */
    _Atomic uint32_t done, total;
} __attribute__((aligned(128))) Phase;

enum { MAX_PHASES = 4096, MAX_THREADS = 64, PATIENCE = 2000, IDLE_PATIENCE = 1000, IDLE_YIELDS = 1000 };

static struct {
    pthread_mutex_t lock;
    _Atomic uint32_t number;
    _Atomic int32_t sleepers, wanted, ranges;
    i64 helpers;
    Job *job;
    _Atomic i64 phases, rows;
    Phase phase[MAX_PHASES];
} team = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Where a range begins. */
static i64 range_begin(i64 range, i64 ranges, i64 total) { return total * range / ranges; }

/* A chunk that nobody has taken; -1: none is left; -2: another job has begun. */
static i64 take(Phase *phase, uint32_t number, i64 worker) {
    i64 ranges = atomic_load(&team.ranges);
    for (i64 i = 0; i < ranges; i++) {
        i64 range = (worker + i) % ranges;
        uint64_t left = atomic_load(&phase->left[range]);
        do {
            if (left >> 32 != number) return -2;
            if (!(uint32_t)left) break;
        } while (!atomic_compare_exchange_weak(&phase->left[range], &left, left - 1));
        if ((uint32_t)left) return range_begin(range + 1, ranges, phase->total) - (uint32_t)left;
    }
    return -1;
}

static void take_part(uint32_t number, i64 worker) {
    set_tiles(atomic_load(&team.rows));
    i64 phases = atomic_load(&team.phases);
    for (i64 p = 0; p < phases; p++) {
        Phase *phase = &team.phase[p];
        for (i64 chunk; (chunk = take(phase, number, worker)) != -1;) {
            if (chunk == -2) goto end;
            team.job->run(team.job, p, chunk, worker);
            atomic_fetch_add(&phase->done, 1);
        }
        for (int waited = 0; atomic_load(&phase->done) < atomic_load(&phase->total); waited++) {
            if (atomic_load(&team.number) != number) goto end;
            if (waited < PATIENCE) _mm_pause(); else sched_yield();
        }
    }
end:
    _tile_release();
}

static void *helper(void *id) {
    uint32_t seen = 0;
    for (int waited = 0;; waited++) {
        uint32_t number = atomic_load(&team.number);
        if (number != seen) {
            seen = number;
            waited = 0;
            if ((i64)id < atomic_load(&team.wanted)) take_part(number, (i64)id);
        } else if (waited < IDLE_PATIENCE) {
            _mm_pause();
        } else if (waited < IDLE_PATIENCE + IDLE_YIELDS) { /* the next step comes soon, and to be woken takes long */
            sched_yield();
        } else {
            atomic_fetch_add(&team.sleepers, 1);
            syscall(SYS_futex, &team.number, FUTEX_WAIT_PRIVATE, seen, NULL);
            atomic_fetch_sub(&team.sleepers, 1);
            waited = 0;
        }
    }
    return NULL;
}

static void after_fork(void) { /* threads do not survive it */
    team.helpers = 0;
    pthread_mutex_init(&team.lock, NULL);
}

static void hire(i64 threads) {
    static _Atomic int told;
    if (!atomic_exchange(&told, 1)) pthread_atfork(NULL, NULL, after_fork);
    for (; team.helpers + 1 < threads; team.helpers++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, helper, (void *)(team.helpers + 1))) return;
        pthread_detach(thread);
    }
}

static void run_alone(Job *job) {
    set_tiles(job->rows);
    for (i64 p = 0; p < job->phases; p++)
        for (i64 i = 0, count = job->chunks(job, p); i < count; i++) job->run(job, p, i, 0);
    _tile_release();
}

/* A second caller while the team is busy does its work alone. */
static void run(Job *job, i64 threads) {
    threads = least(threads, MAX_THREADS);
    if (threads <= 1 || job->phases > MAX_PHASES || pthread_mutex_trylock(&team.lock)) {
        run_alone(job);
        return;
    }
    hire(threads);
    uint32_t number = atomic_load(&team.number) + 1;
    team.job = job;
    atomic_store(&team.phases, job->phases);
    atomic_store(&team.rows, job->rows);
    atomic_store(&team.wanted, threads);
    i64 ranges = least(threads, RANGES);
    atomic_store(&team.ranges, ranges);
    for (i64 p = 0; p < job->phases; p++) {
        uint32_t count = job->chunks(job, p);
        atomic_store(&team.phase[p].done, 0);
        atomic_store(&team.phase[p].total, count);
        for (i64 r = 0; r < ranges; r++)
            atomic_store(&team.phase[p].left[r], (uint64_t)number << 32 | (uint32_t)(range_begin(r + 1, ranges, count) - range_begin(r, ranges, count)));
    }
    atomic_store(&team.number, number);
    if (atomic_load(&team.sleepers)) syscall(SYS_futex, &team.number, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0);
    take_part(number, 0);
    pthread_mutex_unlock(&team.lock);
}
