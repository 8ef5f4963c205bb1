/* Test side: see planner_host.h. */
#include "planner_host.h"

#include <string.h>

#include "planner.h"

struct memory_image {
    const uint8_t *bytes;
    uint64_t size;
    uint32_t fail_read;
    struct host_outcome *outcome;
};

static _Thread_local struct planner_workspace workspace;

static bool read_range(struct memory_image *image, const struct io_range *range)
{
    uint64_t sectors_end = (image->size + 511) / 512 * 512;
    uint64_t present = 0;
    if (range->offset % 512 || range->length % 512 || range->length == 0 ||
        range->offset > sectors_end || range->length > sectors_end - range->offset) {
        image->outcome->misuse = true;
        return false;
    }
    if (range->offset < image->size)
        present = image->size - range->offset;
    if (present > range->length)
        present = range->length;
    memcpy(range->buffer, image->bytes + range->offset, present);
    memset(range->buffer + present, 0, range->length - present);
    image->outcome->bytes_read += range->length;
    return true;
}

static bool read_ranges(void *context, const struct io_range *ranges, uint32_t count)
{
    struct memory_image *image = context;
    if (++image->outcome->read_calls == image->fail_read)
        return false;
    for (uint32_t i = 0; i < count; i++)
        if (!read_range(image, &ranges[i]))
            return false;
    return true;
}

static void count_progress(void *context, uint64_t done, uint64_t total)
{
    struct memory_image *image = context;
    image->outcome->progress_calls++;
    if (done > total)
        image->outcome->misuse = true;
}

void host_plan(const struct AmendConfig *config, const uint8_t *image, uint64_t size,
               uint32_t fail_read, struct host_outcome *outcome)
{
    struct memory_image memory = {image, size, fail_read, outcome};
    const struct image_io io = {&memory, size, read_ranges, count_progress};
    struct amend_plan plan;
    struct verdict verdict;
    memset(outcome, 0, sizeof(*outcome));
    outcome->planned = plan_amend(config, &io, &workspace, &plan, &verdict);
    describe_result(&plan, &verdict, &outcome->result);
    memcpy(outcome->refusals, verdict.refusals, verdict.count * sizeof(verdict.refusals[0]));
    outcome->write_count = outcome->planned ? plan.write_count : 0;
    for (uint32_t i = 0; i < outcome->write_count; i++)
        outcome->writes[i] = (struct host_write){plan.writes[i].phase, plan.writes[i].length,
                                                 plan.writes[i].offset, plan.writes[i].data};
}
