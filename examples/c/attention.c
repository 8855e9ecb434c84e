/* Two queries attend to three keys; each row of `out` is a weighted mean of the rows of `v`. */
#include <mfa.h>
#include <stdio.h>

int main(void) {
    float q[2][2] = {{1, 0}, {0, 2}}, k[3][2] = {{1, 0}, {0, 1}, {1, 1}}, v[3][2] = {{1, 2}, {3, 4}, {5, 7}};
    float out[2][2];
    mfa_tensor_t query = {sizeof query, MFA_PRECISION_FP32, q, NULL, 0, {1, 1, 2, 2}, {4, 4, 2, 1}};
    mfa_tensor_t key = {sizeof key, MFA_PRECISION_FP32, k, NULL, 0, {1, 1, 3, 2}, {6, 6, 2, 1}};
    mfa_tensor_t value = {sizeof value, MFA_PRECISION_FP32, v, NULL, 0, {1, 1, 3, 2}, {6, 6, 2, 1}};
    mfa_tensor_t result = {sizeof result, MFA_PRECISION_FP32, out, NULL, 0, {1, 1, 2, 2}, {4, 4, 2, 1}};
    mfa_attention_desc_t desc = MFA_ATTENTION_DESC_INIT;
    desc.query = &query, desc.key = &key, desc.value = &value, desc.out = &result;

    mfa_context_t context;
    if (mfa_create_context(&context) || mfa_attention_forward_desc(context, &desc))
        return fprintf(stderr, "%s\n", mfa_last_error_message(NULL)), 1;
    printf("%.4f %.4f\n%.4f %.4f\n", out[0][0], out[0][1], out[1][0], out[1][1]);
    mfa_destroy_context(context);
    return 0;
}
