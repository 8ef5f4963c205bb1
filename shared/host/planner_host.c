/* Test side: see library.h. */
#include "host/library.h"

#include <string.h>

#include "host/memory_image.h"
#include "plan/amend.h"
#include "plan/repair.h"
#include "plan/result.h"

#define COUNTS_SIZE 0x400000u

static _Thread_local struct planner_workspace workspace;
static _Thread_local uint64_t counts[COUNTS_SIZE / sizeof(uint64_t)];
static _Thread_local struct repair_memory repair_memory;

void host_plan(const uint8_t *request, const uint8_t *image, uint64_t size, uint32_t fail_call,
               struct host_outcome *outcome)
{
    struct memory_image memory;
    struct AmendConfig config;
    struct asked_options asked;
    struct amend_plan plan;
    struct verdict verdict;
    memcpy(&config, request, sizeof(config));
    open_memory(&memory, image, size, config.max_growth, outcome);
    memory.fail_call = fail_call;
    outcome->understood =
        read_options(request + sizeof(config), config.options_size, &asked) && is_one_step(&asked);
    if (!outcome->understood)
        return;
    const struct image_io io = memory_io(&memory, config.flags & AMEND_FLAG_PROGRESS);
    repair_memory.counts = (uint8_t *)counts;
    repair_memory.size = sizeof(counts);
    outcome->planned =
        is_repair(&config)
            ? plan_repair(&config, &io, &workspace, &repair_memory, &plan, &verdict)
            : plan_amend(&config, &asked, &io, &workspace, &plan, &verdict);
    /* Nothing would carry out what has been put off. */
    outcome->misuse |= outcome->planned && memory.late_count;
    describe_result(&plan, &verdict, &outcome->result);
    tell_outcome(outcome, &verdict);
    if (outcome->planned)
        outcome->options_size = write_options(&plan.target, outcome->options);
}
