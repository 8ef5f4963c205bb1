/* Test side: libFuzzer target for repairs. Any image: it is repaired, or refused, and nothing else changes.
 *
 * Inputs are the planner's (sparse.h); what its flags ask for says how much is to be repaired here. A plan is
 * applied phase by phase, and what it may change is held to the image as it was. PROMISE names what is held.
 */
#include <string.h>

#include "plan/repair.h"
#include "qcow2/bytes.h"
#include "qcow2/qcow2.h"
#include "redzones.h"
#include "sparse.h"

#define SECTOR 512u
#define BUDGET UINT64_C(0x200000)
#define ROOM (16u * 5u * 4096u) /* of counts: 64 Ki clusters, or 80 Ki of 16-bit refcounts */
#define PLACE 48u               /* of the refcount table, in the header */
#define PLACE_END 60u

static struct planner_workspace workspaces[2];
static struct repair_memory memories[2];
static uint64_t counts[2][ROOM / sizeof(uint64_t)];
static struct staged staged[2];

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    for (int i = 0; i < 2; i++) {
        memset(&workspaces[i], i ? 0xff : 1, sizeof(workspaces[i]));
        memset(&memories[i], i ? 0xff : 1, sizeof(memories[i]));
        memset(counts[i], i ? 0xff : 1, sizeof(counts[i]));
        poison_redzones(&workspaces[i]);
    }
    return 0;
}

static uint32_t extent_of(uint8_t flags)
{
    uint32_t extent = flags >> 1 & 3;
    return extent == 0   ? AMEND_FLAG_REPAIR
           : extent == 1 ? AMEND_FLAG_REPAIR_LEAKS
                         : AMEND_FLAG_REPAIR_ALL;
}

static void ask(struct attempt *run, const struct AmendConfig *config, const struct sparse *image,
                uint32_t place, uint32_t fail_read)
{
    struct planner_workspace *workspace = &workspaces[place];
    staged[place].count = staged[place].bytes = 0;
    run->reading = (struct reading){
        .image = image,
        .workspace = workspace,
        .staged = &staged[place],
        .verdict = &run->verdict,
        .max_growth = config->max_growth,
        .fail_read = fail_read,
        .budget = BUDGET,
    };
    const struct image_io io = {&run->reading, image->size, reading_read, reading_write,
                                reading_scatter, reading_zero, 0};
    forget(workspace, sizeof(*workspace));
    memories[place].counts = (uint8_t *)counts[place];
    memories[place].size = sizeof(counts[place]);
    run->planned = plan_repair(config, &io, workspace, &memories[place], &run->plan, &run->verdict);
    PROMISE(run->planned == (run->verdict.count == 0) && run->verdict.count <= REFUSAL_MAX);
    PROMISE(!run->planned || !(run->reading.failed || run->reading.write_failed));
    PROMISE(run->reading.bytes <= config->work_max);
}

static void check_same(const struct attempt *one, const struct attempt *other)
{
    const struct staged *s = &staged[0], *t = &staged[1];
    PROMISE(one->planned == other->planned && one->verdict.count == other->verdict.count);
    PROMISE(memcmp(one->verdict.refusals, other->verdict.refusals,
                   one->verdict.count * sizeof(struct AmendRefusal)) == 0);
    if (!one->planned)
        return;
    PROMISE(one->plan.action == other->plan.action && s->count == t->count && s->bytes == t->bytes);
    PROMISE(memcmp(s->phases, t->phases, s->count * sizeof(s->phases[0])) == 0);
    PROMISE(memcmp(s->data, t->data, s->bytes) == 0);
    for (uint32_t i = 0; i < s->count; i++)
        PROMISE(s->writes[i].offset == t->writes[i].offset);
}

/* In the header: where the refcounts are, the dirty bit, and autoclear bits that nobody knows. */
static void check_header(const uint8_t *old, const uint8_t *new)
{
    uint8_t wanted[SECTOR];
    memcpy(wanted, old, SECTOR);
    memcpy(wanted + PLACE, new + PLACE, PLACE_END - PLACE);
    if (load_be32(old + 4) == 3) {
        wanted[79] &= (uint8_t)(new[79] | ~QCOW2_INCOMPATIBLE_DIRTY);
        store_be64(wanted + 88, load_be64(old + 88) & 3);
    }
    PROMISE(memcmp(wanted, new, SECTOR) == 0);
}

/* In tables: flags of entries that name a cluster, alone. */
static void check_flags(const struct sparse *image, const struct chunk *write)
{
    uint8_t old[SECTOR];
    for (uint64_t at = 0; at < write->length; at += SECTOR) {
        sparse_read(image, write->offset + at, old, SECTOR);
        for (uint32_t i = 0; i < SECTOR; i += 8) {
            uint64_t before = load_be64(old + i), after = load_be64(write->bytes + at + i);
            PROMISE((before ^ after) == 0 || (before ^ after) == QCOW2_L2_COPIED);
            PROMISE(before == after || before & QCOW2_TABLE_OFFSET_MASK);
        }
    }
}

/* Refcounts fall where they are, or all are written where nothing is. */
static void check_writes(const struct attempt *run, const struct sparse *image,
                         const struct AmendConfig *config)
{
    const struct staged *s = run->reading.staged;
    uint8_t old[SECTOR];
    uint32_t switches = 0;
    sparse_read(image, 0, old, SECTOR);
    bool anew = run->plan.target.refcount_table_offset != load_be64(old + PLACE);
    PROMISE(!anew || !(config->flags & AMEND_FLAG_REPAIR_LEAKS));
    for (uint32_t i = 0; i < s->count; i++) {
        const struct chunk *w = &s->writes[i];
        uint32_t phase = s->phases[i];
        PROMISE(w->bytes);
        if (phase == INSTAR_PHASE_SWITCH) {
            switches++;
            PROMISE(w->offset == 0 && w->length == SECTOR);
            check_header(old, w->bytes);
            continue;
        }
        PROMISE(w->offset >= config->cluster_size);
        PROMISE(phase == INSTAR_PHASE_PREPARE || phase == INSTAR_PHASE_MAPPING);
        if (phase == INSTAR_PHASE_MAPPING)
            check_flags(image, w);
        else if (!(config->flags & AMEND_FLAG_FIXED_SIZE))
            PROMISE(anew == (w->offset >= image->size));
    }
    PROMISE(switches <= 1 && (!anew || switches == 1));
}

/* Carry the plan out: then there is nothing more to be done. */
static void check_plan(const struct attempt *run, struct sparse *image, uint8_t flags)
{
    static struct attempt again;
    struct AmendConfig config;
    for (uint32_t phase = 0; phase < INSTAR_PHASE_COUNT; phase++)
        sparse_apply(image, run->reading.staged, phase);
    sparse_config(image, flags & AMEND_FLAG_FIXED_SIZE, &config);
    config.flags |= extent_of(flags);
    ask(&again, &config, image, 1, 0);
    PROMISE(again.reading.failed ||
            (again.planned && again.plan.action == AMEND_ACTION_NOOP && staged[1].count == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct attempt run, again;
    static struct sparse image;
    struct input_head head;
    struct AmendConfig config;
    if (!sparse_parse(data, size, &head, &image))
        return 0;
    sparse_config(&image, head.flags & AMEND_FLAG_FIXED_SIZE, &config);
    config.flags |= extent_of(head.flags);
    config.work_max = BUDGET * 64;
    if (head.fail_read & LIMITED) {
        config.work_max = (head.fail_read & ~LIMITED) * WORK_UNIT;
        head.fail_read = 0;
    }
    ask(&run, &config, &image, 0, head.fail_read);
    ask(&again, &config, &image, 1, head.fail_read);
    check_same(&run, &again);
    if (!run.planned || run.plan.action != AMEND_ACTION_AMENDED) {
        PROMISE(staged[0].count == 0 || !run.planned);
        return 0;
    }
    check_writes(&run, &image, &config);
    check_plan(&run, &image, head.flags);
    return 0;
}
