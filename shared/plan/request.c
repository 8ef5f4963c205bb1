/* Pure, either side: what a request makes of the untrusted image, and all that is against it. */
#include "plan/request.h"

#include "amend/keys.h"
#include "amend/layout.h"
#include "qcow2/extensions.h"
#include "qcow2/header.h"
#include "qcow2/qcow2.h"
#include "qcow2/snapshots.h"

void start_amendment(struct amendment *amendment, const struct AmendConfig *config,
                     const struct image_io *io, struct planner_workspace *workspace,
                     struct verdict *verdict)
{
    *amendment = (struct amendment){
        .workspace = workspace,
        .may_drop_bitmaps = config->flags & AMEND_FLAG_DROP_BITMAPS,
        .may_change_backing = config->flags & AMEND_FLAG_CHANGE_BACKING,
        .may_shrink = config->flags & AMEND_FLAG_SHRINK,
        .backing_size = config->backing_size,
        .kept = {.l1_entries = UINT64_MAX},
    };
    start_verdict(verdict);
    open_qcow2(&amendment->image, &workspace->image, io, verdict, config->work_max);
    for (uint32_t i = 0; i < READ_ALONG_MAX; i++)
        amendment->image.along[i] = config->read_along[i];
    amendment->image.file.max_growth = config->max_growth;
    amendment->image.file.fixed_size = config->flags & AMEND_FLAG_FIXED_SIZE;
}

/* What the host read at the same offsets must be what is there now, or one of the two is wrong. */
static bool check_host_agrees(const struct qcow2_image *image, const struct AmendConfig *c)
{
    const struct qcow2_header *h = &image->header;
    bool bits_known = h->refcount_order <= QCOW2_REFCOUNT_ORDER_MAX;
    return (c->current_version == h->version && c->cluster_size == h->cluster_size &&
            c->current_refcount_bits == (bits_known ? UINT32_C(1) << h->refcount_order : 0) &&
            c->current_incompatible_features == h->incompatible_features &&
            c->current_compatible_features == h->compatible_features &&
            c->current_autoclear_features == h->autoclear_features && c->virtual_size == h->size &&
            c->image_size == image->file.io->size) ||
           refuse(image->file.verdict, REFUSAL_HEADER_MISMATCH, AMEND_ERROR_HEADER_MISMATCH, 0, 0,
                  0);
}

/* The header as it is, but for what any writer must do to it. */
static struct target start_target(const struct qcow2_header *h)
{
    return (struct target){
        .version = h->version,
        .incompatible_features = h->incompatible_features,
        .compatible_features = h->compatible_features,
        /* "Header", autoclear_features: whoever writes clears the bits it does not know. */
        .autoclear_features = h->autoclear_features & QCOW2_AUTOCLEAR_KNOWN,
        .size = h->size,
        .l1_size = h->l1_size,
        .l1_table_offset = h->l1_table_offset,
        .refcount_table_offset = h->refcount_table_offset,
        .refcount_table_clusters = h->refcount_table_clusters,
        .refcount_order = h->refcount_order,
        .snapshots_offset = h->snapshots_offset,
    };
}

bool is_understood(const struct amendment *amendment)
{
    const uint64_t plain = QCOW2_INCOMPATIBLE_DATA_FILE | QCOW2_INCOMPATIBLE_COMPRESSION |
                           QCOW2_INCOMPATIBLE_EXTENDED_L2;
    const struct qcow2_header *h = &amendment->image.header;
    return !amendment->image.file.verdict->unsound && !(h->incompatible_features & ~plain) &&
           h->refcount_order <= QCOW2_REFCOUNT_ORDER_MAX;
}

struct new_header new_header_of(struct amendment *amendment)
{
    return (struct new_header){
        .image = &amendment->image,
        .target = &amendment->target,
        .bytes = amendment->workspace->new_header,
    };
}

/* Note what would be refused later, too: after a refusal nothing is staged. */
static void look_ahead(struct amendment *amendment)
{
    struct new_header new = new_header_of(amendment);
    for (const struct option *const *option = all_options; *option; option++)
        if ((*option)->foresee)
            (*option)->foresee(amendment);
    if (is_understood(amendment))
        (void)lay_out_header(&new);
}

bool resolve_request(struct amendment *amendment, const struct AmendConfig *config,
                     const struct asked_options *asked)
{
    struct qcow2_image *image = &amendment->image;
    const struct verdict *verdict = image->file.verdict;
    if (!parse_header(image) || !check_host_agrees(image, config) || !parse_extensions(image))
        return false;
    amendment->target = start_target(&image->header);
    image->file.growth_needed = image->header.cluster_size;
    for (const struct option *const *option = all_options; *option; option++)
        (*option)->resolve(amendment, &asked->values[(*option)->key]);
    for (const struct option *const *option = all_options; *option; option++)
        if ((*option)->check)
            (*option)->check(amendment);
    if (!verdict->unsound && !image->snapshots_checked)
        check_snapshots(image, 0, 0);
    if (config->flags & AMEND_FLAG_KEYS && is_understood(amendment))
        (void)check_luks_region(amendment);
    if (verdict->count && is_understood(amendment))
        look_ahead(amendment);
    return verdict->count == 0;
}
