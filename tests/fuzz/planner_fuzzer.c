/* Test side: libFuzzer target for the planner. Any image, any request: it keeps its promises.
 *
 * The planner runs on a sparse image (sparse.h). A plan is applied phase by phase and judged with a
 * header walker of our own (walker.h) and by asking the planner again. PROMISE names what is held.
 */
#include <string.h>

#include "bytes.h"
#include "qcow2.h"
#include "redzones.h"
#include "walker.h"

#define SECTOR 512u
#define BUDGET UINT64_C(0x20000) /* twice a whole header */
#define LONG_BUDGET UINT64_C(0x1a0000) /* more than a batch */

struct run {
    bool planned;
    struct amend_plan plan;
    struct verdict verdict;
    struct reading reading;
};

static struct planner_workspace workspaces[2];

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    /* Scratch memory need not be initialised: one full of zero clusters, the other not. */
    memset(&workspaces[0], 0x01, sizeof(workspaces[0]));
    memset(&workspaces[1], 0xff, sizeof(workspaces[1]));
    poison_redzones(&workspaces[0]);
    poison_redzones(&workspaces[1]);
    return 0;
}

static void ask(struct run *run, const struct AmendConfig *config, const struct sparse *image,
                struct planner_workspace *workspace, uint32_t fail_read, uint64_t budget)
{
    run->reading = (struct reading){
        .image = image,
        .workspace = workspace,
        .fail_read = fail_read,
        .budget = budget,
        .may_progress = config->flags & AMEND_FLAG_PROGRESS,
    };
    const struct image_io io = {&run->reading, image->size, reading_read, reading_progress};
    forget_workspace(workspace);
    run->planned = plan_amend(config, &io, workspace, &run->plan, &run->verdict);
}

static bool refused_for(const struct verdict *verdict, uint32_t reason)
{
    for (uint32_t i = 0; i < verdict->count; i++)
        if (verdict->refusals[i].reason == reason)
            return true;
    return false;
}

static void check_result(const struct run *run)
{
    struct AmendResult result;
    describe_result(&run->plan, &run->verdict, &result);
    PROMISE(result.magic == AMEND_RESULT_MAGIC && result.target_format == AMEND_FORMAT_QCOW2);
    PROMISE(result.refusal_count == run->verdict.count && result.reserved == 0);
    PROMISE((result.error == AMEND_OK) == run->planned);
    if (!run->planned)
        return;
    PROMISE(result.action == run->plan.action && result.resulting_version == run->plan.version);
    PROMISE(result.resulting_lazy_refcounts == (run->plan.compatible_features & 1));
    PROMISE(result.resulting_incompatible_features == run->plan.incompatible_features);
    PROMISE(result.resulting_compatible_features == run->plan.compatible_features);
    PROMISE(result.resulting_autoclear_features == run->plan.autoclear_features);
}

static void check_verdict(const struct run *run)
{
    const struct verdict *v = &run->verdict;
    PROMISE(run->planned == (v->count == 0));
    PROMISE(v->count <= REFUSAL_MAX);
    for (uint32_t i = 0; i < v->count; i++) {
        PROMISE(v->refusals[i].reason >= 1 && v->refusals[i].reason <= REFUSAL_READ_FAILED);
        PROMISE(v->refusals[i].error >= 1 && v->refusals[i].error <= AMEND_ERROR_UNSUPPORTED_FEATURE);
    }
    PROMISE(!run->reading.failed || !run->planned);
    PROMISE(!run->reading.failed || v->count == REFUSAL_MAX || refused_for(v, REFUSAL_READ_FAILED));
    PROMISE(run->reading.failed || !refused_for(v, REFUSAL_READ_FAILED));
    check_result(run);
}

/* Reads are bounded: the header, each L2 table once for each L1 table, each snapshot thrice. */
static void check_reads(const struct run *run, const struct sparse *image)
{
    uint8_t raw[SECTOR];
    sparse_read(image, 0, raw, SECTOR);
    uint64_t bits = load_be32(raw + 20), cluster = UINT64_C(1) << (bits <= 21 ? bits : 21);
    uint64_t tables = 1 + (uint64_t)load_be32(raw + 60);
    uint64_t l1_bytes = image->size < (UINT64_C(32) << 20) ? image->size : UINT64_C(32) << 20;
    uint64_t each = 2 * (l1_bytes + cluster) + image->size + 2 * cluster + 3 * PLANNER_TABLE_SIZE;
    if (image->size < UINT64_C(1) << 40)
        PROMISE(run->reading.bytes <= 2 * PLANNER_HEADER_SIZE + tables * each);
}

/* The places and phases of the writes. */
static void check_writes(const struct run *run, const struct view *old)
{
    const struct amend_plan *p = &run->plan;
    uint64_t limit = old->cluster_size < HEADER_LIMIT ? old->cluster_size : HEADER_LIMIT;
    const struct planner_workspace *w = run->reading.workspace;
    PROMISE(p->write_count >= 1 && p->write_count <= 2);
    for (uint32_t i = 0; i < p->write_count; i++) {
        const struct plan_write *write = &p->writes[i];
        PROMISE(write->phase == i + 2 - p->write_count);
        PROMISE(write->offset % SECTOR == 0 && write->length % SECTOR == 0 && write->length);
        PROMISE(write->offset + write->length <= limit);
        PROMISE(write->offset + write->length <= run->reading.image->size);
        PROMISE(write->data == w->new_header + write->offset);
    }
    const struct plan_write *last = &p->writes[p->write_count - 1];
    PROMISE(last->offset == 0);
    PROMISE(p->atomic == (last->length == SECTOR));
    PROMISE(p->write_count == 1 || (p->atomic && p->writes[0].offset >= SECTOR));
}

static void apply(struct sparse *image, const struct plan_write *write)
{
    image->chunks[image->count++] = (struct chunk){write->offset, write->length, write->data};
}

static void check_same_plan(const struct run *one, const struct run *other)
{
    const struct amend_plan *a = &one->plan, *b = &other->plan;
    PROMISE(one->planned == other->planned && one->verdict.count == other->verdict.count);
    PROMISE(memcmp(one->verdict.refusals, other->verdict.refusals,
                   one->verdict.count * sizeof(struct AmendRefusal)) == 0);
    if (!one->planned)
        return;
    PROMISE(a->action == b->action && a->atomic == b->atomic && a->version == b->version);
    PROMISE(a->incompatible_features == b->incompatible_features);
    PROMISE(a->compatible_features == b->compatible_features);
    PROMISE(a->autoclear_features == b->autoclear_features);
    PROMISE(a->write_count == b->write_count);
    for (uint32_t i = 0; i < a->write_count; i++) {
        const struct plan_write *x = &a->writes[i], *y = &b->writes[i];
        PROMISE(x->phase == y->phase && x->offset == y->offset && x->length == y->length);
        PROMISE(memcmp(x->data, y->data, x->length) == 0);
    }
}

/* The amended header: what was asked for, and all else as it was. */
static void check_fields(const struct amend_plan *plan, const struct view *old,
                         const struct view *new, uint8_t flags)
{
    bool lazy = plan->compatible_features & 1;
    PROMISE(new->version == plan->version);
    PROMISE(!(flags & AMEND_FLAG_SET_COMPAT) ||
            new->version == (flags & AMEND_FLAG_COMPAT_V3 ? 3u : 2u));
    PROMISE((flags & AMEND_FLAG_SET_COMPAT) || new->version == old->version);
    PROMISE(!(flags & AMEND_FLAG_SET_LAZY) || lazy == !!(flags & AMEND_FLAG_LAZY_ON));
    PROMISE(memcmp(old->head + 16, new->head + 16, 72 - 16) == 0);
    bool was_3 = old->version == 3, was_lazy = was_3 && load_be64(old->head + 80) & 1;
    uint64_t others = was_3 ? load_be64(old->head + 80) & ~UINT64_C(1) : 0;
    if (new->version == 3) {
        PROMISE(load_be64(new->head + 72) == plan->incompatible_features);
        PROMISE(load_be64(new->head + 80) == plan->compatible_features);
        PROMISE(load_be64(new->head + 88) == plan->autoclear_features);
        PROMISE(plan->compatible_features == (others | lazy));
        PROMISE(lazy == was_lazy || flags & AMEND_FLAG_SET_LAZY);
        PROMISE(plan->autoclear_features == (was_3 ? load_be64(old->head + 88) & 3 : 0));
        PROMISE(was_3 || plan->incompatible_features == 0);
    }
    if (new->version == 3 && old->version == 3)
        PROMISE(memcmp(old->head + 8, new->head + 8, 80 - 8) == 0 &&
                memcmp(old->head + 96, new->head + 96, SECTOR - 96) == 0);
    if (new->version == 3 && old->version == 2)
        PROMISE(load_be32(new->head + 96) == 4 && load_be32(new->head + 100) == 112 &&
                load_be64(new->head + 104) == 0);
}

/* Carry the plan out and look at the image after each phase. */
static void check_plan(const struct run *run, struct sparse *image, uint8_t flags)
{
    static struct view old, new;
    static struct run again;
    const struct amend_plan *plan = &run->plan;
    struct AmendConfig config;
    view_header(image, &old);
    check_writes(run, &old);
    if (plan->write_count == 2) {
        PROMISE(!changes_referred(image, &old, plan->writes[0].offset, plan->writes[0].length,
                                  plan->writes[0].data));
        apply(image, &plan->writes[0]);
    }
    sparse_config(image, flags, &config);
    ask(&again, &config, image, &workspaces[1], 0, UINT64_MAX);
    check_same_plan(run, &again);
    PROMISE(plan->atomic || !fits_one_sector_switch(&old));
    apply(image, &plan->writes[plan->write_count - 1]);
    view_header(image, &new);
    PROMISE(same_name(&old, &new) && same_extensions(&old, &new));
    check_fields(plan, &old, &new, flags);
    sparse_config(image, flags, &config);
    ask(&again, &config, image, &workspaces[1], 0, UINT64_MAX);
    check_verdict(&again);
    PROMISE(again.planned && again.plan.action == AMEND_ACTION_NOOP);
    PROMISE(again.plan.write_count == 0 && again.plan.version == plan->version);
}

/* Something else than what the host saw is there now. False: the mode does not ask for it. */
static bool falsify(struct AmendConfig *config, const struct input_head *head)
{
    uint32_t bit = head->spare % 32;
    if (!(head->mode & MODE_MISMATCH))
        return false;
    switch (head->mode >> 4 & 7) {
    case 0: config->cluster_size ^= UINT32_C(1) << bit; break;
    case 1: config->current_version ^= UINT32_C(1) << bit; break;
    case 2: config->current_refcount_bits ^= UINT32_C(1) << bit; break;
    case 3: config->current_incompatible_features ^= UINT64_C(1) << 2 * bit; break;
    case 4: config->current_compatible_features ^= UINT64_C(1) << 2 * bit; break;
    case 5: config->virtual_size ^= UINT64_C(1) << 2 * bit; break;
    case 6: config->image_size ^= UINT64_C(1) << 2 * bit; break;
    default: config->current_autoclear_features ^= UINT64_C(1) << 2 * bit; break;
    }
    return true;
}

/* Long tables take long, and show no more than short ones do: few inputs may have them. */
static bool takes_too_long(const struct sparse *image, bool may_take_long)
{
    const uint32_t entries = may_take_long ? 9000 : 600, snapshots = may_take_long ? 2000 : 40;
    uint8_t raw[SECTOR];
    sparse_read(image, 0, raw, SECTOR);
    uint32_t l1_size = load_be32(raw + 36), nb_snapshots = load_be32(raw + 60);
    return (l1_size > entries && l1_size <= QCOW2_L1_SIZE_MAX / 8) ||
           (nb_snapshots > snapshots && nb_snapshots <= QCOW2_SNAPSHOTS_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct run run, again;
    static struct sparse image;
    struct input_head head;
    struct AmendConfig config;
    if (!sparse_parse(data, size, &head, &image))
        return 0;
    sparse_config(&image, head.flags, &config);
    bool mismatch = falsify(&config, &head);
    bool may_take_long = head.mode == MODE_LONG;
    if (takes_too_long(&image, may_take_long))
        return 0;
    uint64_t budget = may_take_long ? LONG_BUDGET : BUDGET;
    ask(&run, &config, &image, &workspaces[0], head.fail_read, budget);
    check_verdict(&run);
    check_reads(&run, &image);
    PROMISE(!mismatch || !run.planned);
    if (run.planned && run.plan.action == AMEND_ACTION_AMENDED) {
        check_plan(&run, &image, head.flags);
    } else if (run.planned || head.mode & MODE_TWICE) {
        PROMISE(!run.planned || (run.plan.write_count == 0 && run.plan.atomic));
        ask(&again, &config, &image, &workspaces[1], head.fail_read, budget);
        check_same_plan(&run, &again);
    }
    return 0;
}
