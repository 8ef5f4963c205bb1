/* Test side: libFuzzer target for the planner. Any image, any request: it keeps its promises.
 *
 * The planner runs on a sparse image (sparse.h). A plan is applied phase by phase and judged with a
 * header walker of our own (walker.h) and by asking the planner again. PROMISE names what is held.
 */
#include <string.h>

#include "plan/amend.h"
#include "plan/result.h"
#include "qcow2/bytes.h"
#include "qcow2/qcow2.h"
#include "qcow2/refcounts.h"
#include "redzones.h"
#include "walker.h"

#define SECTOR 512u
#define BUDGET UINT64_C(0x20000) /* twice a whole header */
#define BLOCKS_MAX 1024u
#define ENTRIES_MAX 64u /* of an L1 table that are looked at */
#define LONG_BUDGET UINT64_C(0x1a0000) /* more than a batch */

static struct planner_workspace workspaces[2];
static struct staged staged[2]; /* what was staged in each */

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

static bool refused_for(const struct verdict *verdict, uint32_t reason)
{
    for (uint32_t i = 0; i < verdict->count; i++)
        if (verdict->refusals[i].reason == reason)
            return true;
    return false;
}

/* The guest keeps to work_max, where it is one that can be reached. */
static void check_work(const struct attempt *run, const struct AmendConfig *config)
{
    const struct reading *r = &run->reading;
    PROMISE(config->work_max < UINT64_MAX || !refused_for(&run->verdict, REFUSAL_WORK_LIMIT));
    PROMISE(r->bytes <= config->work_max && r->calls <= config->work_max / AMEND_DOORBELL_WORK);
}

static void ask(struct attempt *run, const struct AmendConfig *config,
                const struct asked_options *asked, const struct sparse *image, uint32_t place, uint32_t fail_read, uint64_t budget)
{
    struct planner_workspace *workspace = &workspaces[place];
    staged[place].count = staged[place].bytes = 0;
    run->reading = (struct reading){
        .image = image,
        .workspace = workspace,
        .verdict = &run->verdict,
        .staged = &staged[place],
        .max_growth = config->max_growth,
        .fail_read = fail_read,
        .budget = budget,
        .may_progress = config->flags & AMEND_FLAG_PROGRESS,
    };
    const struct image_io io = {&run->reading, image->size, reading_read, reading_write,
                                reading_scatter, reading_zero,
                                run->reading.may_progress ? reading_progress : 0};
    forget(workspace, sizeof(*workspace));
    run->planned = plan_amend(config, asked, &io, workspace, &run->plan, &run->verdict);
    check_work(run, config);
}

/* The records of what holds in the end are those of the target. */
static void check_options(const struct target *target)
{
    static uint8_t records[FRAME_PAYLOAD_MAX];
    struct asked_options told;
    PROMISE(read_options(records, write_options(target, records), &told));
    PROMISE(told.values[OPTION_COMPAT].number == target->version);
    PROMISE(told.values[OPTION_SIZE].number == target->size);
    PROMISE(told.values[OPTION_LAZY_REFCOUNTS].number == (target->compatible_features & 1));
}

static void check_result(const struct attempt *run)
{
    struct AmendResult result;
    describe_result(&run->plan, &run->verdict, &result);
    PROMISE(result.magic == AMEND_RESULT_MAGIC && result.target_format == AMEND_FORMAT_QCOW2);
    PROMISE(result.refusal_count == run->verdict.count && result.reserved == 0);
    PROMISE((result.error == AMEND_OK) == run->planned);
    if (!run->planned)
        return;
    check_options(&run->plan.target);
    PROMISE(result.action == run->plan.action && result.resulting_version == run->plan.target.version);
    PROMISE(result.resulting_lazy_refcounts == (run->plan.target.compatible_features & 1));
    PROMISE(result.resulting_incompatible_features == run->plan.target.incompatible_features);
    PROMISE(result.resulting_compatible_features == run->plan.target.compatible_features);
    PROMISE(result.resulting_autoclear_features == run->plan.target.autoclear_features);
}

static void check_verdict(const struct attempt *run)
{
    const struct verdict *v = &run->verdict;
    PROMISE(run->planned == (v->count == 0));
    PROMISE(!run->planned || !run->reading.late);
    PROMISE(v->count <= REFUSAL_MAX);
    for (uint32_t i = 0; i < v->count; i++) {
        PROMISE(v->refusals[i].reason >= 1 && v->refusals[i].reason <= REFUSAL_LUKS_REGION);
        PROMISE(v->refusals[i].error >= 1 && v->refusals[i].error <= AMEND_ERROR_ENCRYPTION);
    }
    PROMISE(!run->reading.failed || !run->planned);
    PROMISE(!run->reading.failed || v->count == REFUSAL_MAX || refused_for(v, REFUSAL_READ_FAILED));
    PROMISE(run->reading.failed || !refused_for(v, REFUSAL_READ_FAILED));
    PROMISE(run->reading.write_failed == refused_for(v, REFUSAL_WRITE_FAILED));
    PROMISE(v->names_size <= sizeof(v->names));
    PROMISE(v->snapshots_size <= sizeof(v->snapshots));
    PROMISE(v->snapshots_size == 0 || v->count > 0);
    PROMISE(v->names_size == 0 || refused_for(v, REFUSAL_DOWNGRADE_BITMAPS) ||
            refused_for(v, REFUSAL_SIZE_BITMAPS) || refused_for(v, REFUSAL_BITMAP_IN_USE));
    check_result(run);
}

/* Where only the header changes, or nothing, reads are bounded: the header, an L2 table for each entry of
 * each L1 table, each snapshot thrice. */
static void check_reads(const struct attempt *run, const struct sparse *image)
{
    uint8_t raw[SECTOR];
    sparse_read(image, 0, raw, SECTOR);
    uint64_t bits = load_be32(raw + 20), cluster = UINT64_C(1) << (bits <= 21 ? bits : 21);
    uint64_t tables = 1 + (uint64_t)load_be32(raw + 60);
    uint64_t l1_bytes = image->size < (UINT64_C(32) << 20) ? image->size : UINT64_C(32) << 20;
    uint64_t each = 2 * (l1_bytes + cluster) + l1_bytes / QCOW2_TABLE_ENTRY_SIZE * cluster +
                    2 * cluster + 3 * TABLE_SIZE;
    if (image->size < UINT64_C(1) << 40 && run->planned && run->reading.staged->count <= 2)
        PROMISE(run->reading.bytes <= 2 * HEADER_SIZE + tables * each);
}

/* One write: its place is one of those that its phase may have. */
static void check_write(const struct attempt *run, const struct sparse *image, const struct view *old,
                        uint32_t phase, const struct chunk *write)
{
    uint64_t limit = old->cluster_size < HEADER_LIMIT ? old->cluster_size : HEADER_LIMIT;
    uint8_t raw[SECTOR];
    PROMISE(write->bytes || write->offset % old->cluster_size == 0);
    if (write->offset >= old->cluster_size) {
        PROMISE(phase != INSTAR_PHASE_SWITCH);
        return;
    }
    PROMISE(write->bytes && write->offset + write->length <= limit);
    PROMISE(write->offset + write->length <= image->size);
    if (phase == INSTAR_PHASE_SWITCH) {
        PROMISE(write->offset == 0 && run->plan.atomic == (write->length == SECTOR));
    } else if (phase == INSTAR_PHASE_REFCOUNT_TABLE) {
        PROMISE(write->offset == 0 && write->length == SECTOR);
        sparse_read(image, 0, raw, SECTOR);
        PROMISE(memcmp(raw, write->bytes, 48) == 0);
        PROMISE(memcmp(raw + 60, write->bytes + 60, SECTOR - 60) == 0);
    } else {
        PROMISE(phase == INSTAR_PHASE_PREPARE && write->offset >= SECTOR && run->plan.atomic);
        PROMISE(!changes_referred(image, old, write->offset, (uint32_t)write->length,
                                  write->bytes));
    }
}

/* The places and phases of the writes; one of them is the switch. */
static void check_writes(const struct attempt *run, const struct sparse *image, const struct view *old)
{
    const struct staged *s = run->reading.staged;
    uint32_t switches = 0;
    for (uint32_t i = 0; i < s->count; i++) {
        check_write(run, image, old, s->phases[i], &s->writes[i]);
        switches += s->phases[i] == INSTAR_PHASE_SWITCH;
    }
    PROMISE(switches == 1);
}

static void check_same_plan(const struct attempt *one, const struct attempt *other)
{
    const struct amend_plan *a = &one->plan, *b = &other->plan;
    PROMISE(one->planned == other->planned && one->verdict.count == other->verdict.count);
    PROMISE(memcmp(one->verdict.refusals, other->verdict.refusals,
                   one->verdict.count * sizeof(struct AmendRefusal)) == 0);
    if (!one->planned)
        return;
    PROMISE(a->action == b->action && a->atomic == b->atomic && a->target.version == b->target.version);
    PROMISE(a->target.incompatible_features == b->target.incompatible_features);
    PROMISE(a->target.compatible_features == b->target.compatible_features);
    PROMISE(a->target.autoclear_features == b->target.autoclear_features);
    const struct staged *s = one->reading.staged, *t = other->reading.staged;
    PROMISE(s->count == t->count && s->bytes == t->bytes);
    PROMISE(memcmp(s->phases, t->phases, s->count * sizeof(s->phases[0])) == 0);
    PROMISE(memcmp(s->data, t->data, s->bytes) == 0);
    for (uint32_t i = 0; i < s->count; i++) {
        const struct chunk *x = &s->writes[i], *y = &t->writes[i];
        PROMISE(x->offset == y->offset && x->length == y->length && !x->bytes == !y->bytes);
    }
}

/* What is asked for by this option; null: nothing is. */
static const struct option_value *asked_for(const struct asked_options *asked, uint32_t key)
{
    return asked->values[key].given ? &asked->values[key] : 0;
}

static bool asks_for_text(const struct asked_options *asked)
{
    return asked_for(asked, OPTION_BACKING_FILE) || asked_for(asked, OPTION_BACKING_FMT) ||
           asked_for(asked, OPTION_DATA_FILE);
}

/* The extensions of this type are as they were, or if a text is given there is one that has it, or none. */
static void check_text(struct view *old, struct view *new, unsigned slot, uint32_t type,
                       const uint8_t *bytes, uint32_t length, bool given)
{
    if (!given)
        return;
    PROMISE(has_text(new, type, bytes, length));
    old->without[slot] = new->without[slot] = type;
}

/* The backing file, its format and the data file's name, and all other extensions. */
static void check_texts(const struct asked_options *asked, uint32_t flags, struct view *old,
                        struct view *new)
{
    const struct option_value *name = asked_for(asked, OPTION_BACKING_FILE);
    const struct option_value *form = asked_for(asked, OPTION_BACKING_FMT);
    const struct option_value *data = asked_for(asked, OPTION_DATA_FILE);
    bool may_change = flags & AMEND_FLAG_CHANGE_BACKING;
    if (name && may_change) {
        PROMISE(new->name_size >= name->length && (new->has_name || name->length == 0));
        PROMISE(memcmp(new->name, name->bytes, name->length) == 0);
        PROMISE(new->name_size == name->length || new->name[name->length] == 0);
    } else {
        PROMISE(same_name(old, new));
    }
    bool removed = name && !name->length && may_change;
    check_text(old, new, 0, QCOW2_EXTENSION_BACKING_FORMAT, form ? form->bytes : 0,
               form ? form->length : 0, (form && may_change) || removed);
    check_text(old, new, 1, QCOW2_EXTENSION_DATA_FILE, data ? data->bytes : 0,
               data ? data->length : 0, data);
    PROMISE(same_extensions(old, new));
}

/* Fields that are in both versions. */
static void check_common_fields(const struct view *old, const struct view *new,
                                const struct asked_options *asked)
{
    const struct option_value *size = asked_for(asked, OPTION_SIZE);
    PROMISE(memcmp(old->head + 20, new->head + 20, 4) == 0); /* cluster_bits */
    PROMISE(load_be64(new->head + 24) == (size ? size->number : load_be64(old->head + 24)));
    PROMISE(memcmp(old->head + 32, new->head + 32, 4) == 0); /* crypt_method */
    PROMISE(size || memcmp(old->head + 36, new->head + 36, 12) == 0); /* the L1 table */
    /* The refcount table, and on an upgrade the snapshot table, may have moved. */
    PROMISE(memcmp(old->head + 60, new->head + 60, 4) == 0);
    PROMISE(new->version > old->version || memcmp(old->head + 64, new->head + 64, 8) == 0);
}

/* Version 3 has as many bits as asked for, or as before. */
static void check_width(const struct view *old, const struct view *new,
                        const struct asked_options *asked)
{
    const struct option_value *bits = asked_for(asked, OPTION_REFCOUNT_BITS);
    uint32_t before = old->version == 3 ? load_be32(old->head + 96) : 4;
    uint32_t after = load_be32(new->head + 96);
    PROMISE(bits ? after <= 6 && UINT64_C(1) << after == bits->number : after == before);
}

/* The feature words of version 3. */
static void check_features(const struct amend_plan *plan, const struct view *old,
                           const struct view *new, const struct asked_options *asked)
{
    const struct option_value *raw = asked_for(asked, OPTION_DATA_FILE_RAW);
    bool was_3 = old->version == 3, was_lazy = was_3 && load_be64(old->head + 80) & 1;
    bool lazy = plan->target.compatible_features & 1;
    uint64_t others = was_3 ? load_be64(old->head + 80) & ~UINT64_C(1) : 0;
    uint64_t autoclear = was_3 ? load_be64(old->head + 88) & 3 : 0;
    if (raw && !raw->number)
        autoclear &= ~QCOW2_AUTOCLEAR_DATA_FILE_RAW;
    if (plan->target.drop_bitmaps)
        autoclear &= ~QCOW2_AUTOCLEAR_BITMAPS;
    PROMISE(load_be64(new->head + 72) == plan->target.incompatible_features);
    PROMISE(load_be64(new->head + 72) == (was_3 ? load_be64(old->head + 72) : 0));
    PROMISE(load_be64(new->head + 80) == plan->target.compatible_features);
    PROMISE(load_be64(new->head + 88) == plan->target.autoclear_features);
    PROMISE(plan->target.compatible_features == (others | lazy));
    PROMISE(lazy == was_lazy || asked_for(asked, OPTION_LAZY_REFCOUNTS));
    PROMISE(plan->target.autoclear_features == autoclear);
}

/* The amended header: what was asked for, and all else as it was. */
static void check_fields(const struct amend_plan *plan, const struct view *old,
                         const struct view *new, const struct asked_options *asked)
{
    const struct option_value *compat = asked_for(asked, OPTION_COMPAT);
    const struct option_value *lazy = asked_for(asked, OPTION_LAZY_REFCOUNTS);
    PROMISE(new->version == plan->target.version);
    PROMISE(new->version == (compat ? (compat->number == 2 ? 2 : 3) : old->version));
    PROMISE(!lazy || lazy->number == (plan->target.compatible_features & 1));
    check_common_fields(old, new, asked);
    if (new->version == 2)
        return;
    check_width(old, new, asked);
    check_features(plan, old, new, asked);
    if (old->version == 2)
        PROMISE(load_be32(new->head + 100) == 112 && load_be64(new->head + 104) == 0);
    else
        PROMISE(load_be32(new->head + 100) == load_be32(old->head + 100));
    if (old->version == 3 && !asks_for_text(asked) && !plan->target.drop_bitmaps)
        PROMISE(memcmp(old->head + 8, new->head + 8, 24 - 8) == 0 &&
                memcmp(old->head + 100, new->head + 100, SECTOR - 100) == 0);
}

/* Entry `index` of the active L1 table. */
static uint64_t l1_entry(const struct sparse *image, const struct view *view, uint64_t index)
{
    uint8_t entry[8];
    sparse_read(image, load_be64(view->head + 40) + 8 * index, entry, sizeof(entry));
    return load_be64(entry);
}

/* A disk of another size maps what both have by the same tables, but for the last one; of what a larger
 * one has more nothing is mapped that was not made for it. `before` is what old entries were. */
static void check_layer(const struct sparse *image, const struct view *old, const struct view *new,
                        const uint64_t before[ENTRIES_MAX], uint64_t backing_size)
{
    bool extended = old->version == 3 && load_be64(old->head + 72) & QCOW2_INCOMPATIBLE_EXTENDED_L2;
    uint64_t span = old->cluster_size * (old->cluster_size / (extended ? 16 : 8));
    uint64_t was = load_be64(old->head + 24), is = load_be64(new->head + 24);
    uint64_t both = was < is ? was : is, whole = both / span, end = (is + span - 1) / span;
    PROMISE(load_be32(new->head + 36) >= end);
    for (uint64_t i = 0; i < whole && i < ENTRIES_MAX; i++)
        PROMISE(l1_entry(image, new, i) == before[i]);
    bool fills = old->has_name && backing_size > was;
    for (uint64_t i = (both + span - 1) / span; i < end && i < ENTRIES_MAX && !fills; i++)
        PROMISE(l1_entry(image, new, i) == 0);
}

/* Whether each refcount block has a refcount, and so is not taken for free: the planner does not look,
 * as the host does when it judges the plan. */
static bool blocks_are_counted(const struct sparse *image)
{
    uint8_t raw[SECTOR], entry[8];
    sparse_read(image, 0, raw, SECTOR);
    uint32_t bits = load_be32(raw + 20), clusters = load_be32(raw + 56);
    uint32_t order = load_be32(raw + 4) == 3 ? load_be32(raw + 96) : 4;
    uint64_t table = load_be64(raw + 48), entries = ((uint64_t)clusters << bits) / 8;
    uint64_t per_block = UINT64_C(8) << bits >> order;
    for (uint64_t i = 0; i < entries && i < BLOCKS_MAX; i++) {
        sparse_read(image, table + 8 * i, entry, 8);
        uint64_t cluster = load_be64(entry) >> bits;
        if (load_be64(entry) == 0)
            continue;
        sparse_read(image, table + cluster / per_block * 8, entry, 8);
        uint64_t block = cluster / per_block < entries ? load_be64(entry) : 0;
        uint64_t at = (cluster % per_block) << order; /* in bits */
        sparse_read(image, block + at / 64 * 8, entry, 8);
        if (block == 0 || load_refcount(entry, at % 64 >> order, order) == 0)
            return false;
    }
    return entries <= BLOCKS_MAX;
}

/* Carry the plan out and look at the image. */
static void check_plan(const struct attempt *run, struct sparse *image, uint8_t flags,
                       const struct asked_options *asked)
{
    static struct view old, new;
    static struct attempt again;
    uint64_t before[ENTRIES_MAX];
    const struct amend_plan *plan = &run->plan;
    struct AmendConfig config;
    view_header(image, &old);
    check_writes(run, image, &old);
    bool sound = run->reading.staged->count <= 2 || blocks_are_counted(image);
    sparse_config(image, flags, &config);
    ask(&again, &config, asked, image, 1, 0, UINT64_MAX);
    check_same_plan(run, &again);
    bool dropped = plan->target.drop_bitmaps && has_bitmaps(&old);
    PROMISE(!dropped || config.flags & AMEND_FLAG_DROP_BITMAPS);
    PROMISE(plan->atomic || plan->target.version < old.version || asks_for_text(asked) ||
            plan->target.drop_bitmaps || !fits_one_sector_switch(&old));
    for (uint64_t i = 0; i < ENTRIES_MAX; i++)
        before[i] = l1_entry(image, &old, i);
    for (uint32_t phase = 0; phase < INSTAR_PHASE_COUNT; phase++)
        sparse_apply(image, run->reading.staged, phase);
    view_header(image, &new);
    old.without[2] = dropped ? QCOW2_EXTENSION_BITMAPS : 0;
    check_texts(asked, config.flags, &old, &new);
    check_fields(plan, &old, &new, asked);
    if (!sound)
        return;
    if (asked_for(asked, OPTION_SIZE))
        check_layer(image, &old, &new, before, config.backing_size);
    sparse_config(image, flags, &config);
    ask(&again, &config, asked, image, 1, 0, UINT64_MAX);
    check_verdict(&again);
    PROMISE(again.planned && again.plan.action == AMEND_ACTION_NOOP);
    PROMISE(staged[1].count == 0 && again.plan.target.version == plan->target.version);
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
    static struct attempt run, again;
    static struct sparse image;
    struct input_head head;
    struct AmendConfig config;
    if (!sparse_parse(data, size, &head, &image))
        return 0;
    const struct asked_options asked = sparse_options(&image, head.flags);
    sparse_config(&image, head.flags, &config);
    bool mismatch = falsify(&config, &head);
    bool may_take_long = head.mode == MODE_LONG;
    if (takes_too_long(&image, may_take_long))
        return 0;
    uint64_t budget = may_take_long ? LONG_BUDGET : BUDGET;
    if (head.fail_read & LIMITED) {
        config.work_max = (head.fail_read & ~LIMITED) * WORK_UNIT;
        head.fail_read = 0;
    }
    ask(&run, &config, &asked, &image, 0, head.fail_read, budget);
    check_verdict(&run);
    check_reads(&run, &image);
    PROMISE(!mismatch || !run.planned);
    if (run.planned && run.plan.action == AMEND_ACTION_AMENDED) {
        check_plan(&run, &image, head.flags, &asked);
    } else if (run.planned || head.mode & MODE_TWICE) {
        PROMISE(!run.planned || (staged[0].count == 0 && run.plan.atomic));
        ask(&again, &config, &asked, &image, 1, head.fail_read, budget);
        check_same_plan(&run, &again);
    }
    return 0;
}
